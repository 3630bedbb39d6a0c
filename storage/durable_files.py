"""Local files that are whole or absent, and survive a power cut once reported as written.

Where the file system can (ext4, xfs, btrfs, tmpfs), content goes into a file without a name that is then
linked: a killed writer leaves nothing behind. Elsewhere (NFS, Lustre) it goes into a temporary file beside
the target.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

Buffer = bytes | bytearray | memoryview
# One buffer, or several that follow one another: a shard is never copied to be written.
Content = Buffer | Sequence[Buffer]


def in_parts(content: Content) -> Sequence[Buffer]:
    """The buffers of a content, in order."""
    return [content] if isinstance(content, Buffer) else content


def is_temporary(name: str) -> bool:
    """Whether a name is that of a write in progress (or of one that was killed), or lies in such a folder."""
    return any(part.startswith(".") and part.endswith(".tmp") for part in name.split("/"))


def replace(path: Path, content: Content) -> None:
    """Give `path` this content: whole file, fsync, name, fsync of the directory."""
    make_directories(path.parent)
    with _written(path, content) as source:
        if not source.is_unnamed:
            os.replace(source.path, path)
        elif not _link(source.path, path):
            temporary = _temporary_name(path)
            _link(source.path, temporary)
            os.replace(temporary, path)
    fsync_directory(path.parent)


def take_over(source: Path, path: Path) -> None:
    """Move a file of the same file system to `path`, durably."""
    make_directories(path.parent)
    with open(source, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(source, path)
    fsync_directory(path.parent)


def create(path: Path, content: Buffer) -> bool:
    """The same if no file has that name, else False. Raises OSError on file systems without hard links."""
    make_directories(path.parent)
    with _written(path, content) as source:
        # A link either gives the whole, already durable file its name or fails because the name is taken.
        created = _link(source.path, path)
    if created:
        fsync_directory(path.parent)
    return created


def remove(path: Path) -> None:
    """Remove a file if it is there; the order of removals survives a power cut."""
    if path.exists():
        path.unlink()
        fsync_directory(path.parent)


def read_ranges(path: Path, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Byte ranges `[start, stop)`; one that the file does not cover comes back shorter."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return [_read_range(descriptor, start, stop) for start, stop in ranges]
    finally:
        os.close(descriptor)


def read_into(path: str | Path, start: int, buffer: memoryview) -> int:
    """Fill `buffer` with the bytes from `start` on; how many the file had."""
    done = 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while done < len(buffer) and (read := os.preadv(descriptor, [buffer[done:]], start + done)):
            done += read
    finally:
        os.close(descriptor)
    return done


def walk(top: str) -> Iterator[tuple[str, os.stat_result]]:
    """(path below `top` with `/`, stat) of every file; one that vanishes meanwhile is left out."""
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(os.path.join(top, folder)))
        except FileNotFoundError:
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                folders.append(name)
                continue
            with contextlib.suppress(FileNotFoundError):
                yield name, entry.stat()


def fsync_directory(directory: Path) -> None:
    """Make names created in or removed from a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(directory: Path) -> None:
    """Create missing parents, each made durable in the one above: a file in a lost directory is lost."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync_directory(folder.parent)


@dataclass(frozen=True)
class _Source:
    path: Path
    is_unnamed: bool


@contextlib.contextmanager
def _written(path: Path, content: Content) -> Iterator[_Source]:
    """A durable file in the folder of `path` that is gone afterwards unless it was linked or moved."""
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, OSError):  # not Linux; a file system or an old kernel that cannot
        temporary = _temporary_name(path)
        try:
            with open(temporary, "xb") as stream:
                _write(stream, content)
            yield _Source(temporary, is_unnamed=False)
        finally:
            temporary.unlink(missing_ok=True)
        return
    with open(descriptor, "wb") as stream:
        _write(stream, content)
        yield _Source(Path(f"/proc/self/fd/{descriptor}"), is_unnamed=True)


def _write(stream: BinaryIO, content: Content) -> None:
    stream.writelines(in_parts(content))
    stream.flush()
    os.fsync(stream.fileno())


def _link(source: Path, path: Path) -> bool:
    """Give a file another name; False when that is taken."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # With a directory descriptor Python calls linkat and follows /proc/self/fd/N to the unnamed file.
        os.link(source, path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        return False
    finally:
        os.close(folder)
    return True


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _read_range(descriptor: int, start: int, stop: int) -> bytes:
    first = os.pread(descriptor, stop - start, start)
    if len(first) == stop - start or not first:
        return first
    parts = [first]  # Linux hands out at most 2 GiB a call
    start += len(first)
    while start < stop and (part := os.pread(descriptor, stop - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)
