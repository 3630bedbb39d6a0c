"""Files and objects under one root, on local disk or in any fsspec store.

`Location` is the only place that knows how a name becomes bytes. It offers what the commit protocol
(`storage.commits`) needs and nothing more: whole-object atomic writes, create-if-absent, range reads, lists.

On local disk a write is: whole file, fsync, name, fsync of the directory (`storage.durable_files`), so
a reader sees the old content or the new one, never a part, and a power cut cannot lose what was reported as
written. On an object store a write is one PUT (a completed multipart upload is atomic as well) and
create-if-absent is a conditional PUT.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from storage import durable_files
from storage.durable_files import Buffer
from storage.errors import DamagedDataset, InputError

# `MemoryFileSystem` tests for existence and stores in two steps; threads need a lock around both.
_MEMORY_LOCK = threading.Lock()

# File systems that cannot make hard links report one of these.
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@dataclass(frozen=True)
class Location:
    """A directory or object-store prefix. Names are relative to it, joined by `/`; "" is the root itself.

    Holds one string and is cheap to pickle: every process opens its own connection.
    """

    root: str

    @classmethod
    def of(cls, path: str | os.PathLike[str] | Location) -> Location:
        """The location of a local path (made absolute, since workers run elsewhere) or an fsspec URL."""
        if isinstance(path, Location):
            return path
        text = os.fspath(path)
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        if "://" in text:
            return cls(text.rstrip("/"))
        return cls(os.path.abspath(os.path.expanduser(text)))

    @property
    def local(self) -> Path | None:
        """The path on this machine, or None for an object store."""
        return None if "://" in self.root else Path(self.root)

    def __truediv__(self, name: str) -> Location:
        return Location(f"{self.root.rstrip('/')}/{_checked(name)}")

    def __str__(self) -> str:
        return self.root

    def read(self, name: str = "") -> bytes:
        """The whole object. Raises FileNotFoundError."""
        if self.local is not None:
            return self._path(name).read_bytes()
        fs, key = self._remote(name)
        return bytes(fs.cat_file(key))

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Byte ranges `[start, stop)` of one object, in the order asked.

        Raises FileNotFoundError, and DamagedDataset when the object ends before a range does.
        """
        if self.local is not None:
            parts = durable_files.read_ranges(self._path(name), ranges)
        else:
            parts = _remote_ranges(self, name, ranges)
        for (start, stop), part in zip(ranges, parts, strict=True):
            if len(part) != stop - start:
                raise DamagedDataset(
                    f"{self}/{name}: ends inside the byte range {start}-{stop} ({len(part)} bytes found, "
                    f"{stop - start} expected); the object is truncated"
                )
        return parts

    def put(self, name: str, content: Buffer) -> None:
        """Write the object whole, replacing what is there. Durable and visible at once, or not at all."""
        if self.local is not None:
            durable_files.replace(self._path(name), content)
            return
        fs, key = self._remote(name)
        fs.pipe_file(key, bytes(content))

    def create(self, name: str, content: Buffer) -> bool:
        """Write the object only if none has that name; False when one has.

        Of any number of writers that race at most one gets True. If the connection is lost in mid-answer, the
        repeated request of the winner says False as well: on False compare contents.
        """
        if self.local is not None:
            try:
                return durable_files.create(self._path(name), content)
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                raise InputError(f"{self}: this file system has no hard links. {_PROBE_ADVICE}") from error
        fs, key = self._remote(name)
        try:
            if self.root.startswith("memory://"):
                with _MEMORY_LOCK:
                    fs.pipe_file(key, bytes(content), mode="create")
            else:
                fs.pipe_file(key, bytes(content), mode="create")
        except FileExistsError:
            return False
        except OSError:
            if self.exists(name):  # some stores answer a failed condition with a general error
                return False
            raise
        return True

    def put_file(self, name: str, source: Path) -> None:
        """Like `put`, for content too large for memory: takes over a local file, which is gone afterwards."""
        if self.local is not None:
            durable_files.take_over(source, self._path(name))
            return
        fs, key = self._remote(name)
        fs.put_file(str(source), key)
        source.unlink()

    def get_file(self, name: str, target: Path) -> None:
        """Copy one object into a local file that does not exist yet. Raises FileNotFoundError."""
        if self.local is not None:
            shutil.copyfile(self._path(name), target)
            return
        fs, key = self._remote(name)
        fs.get_file(key, str(target))

    def exists(self, name: str = "") -> bool:
        if self.local is not None:
            return self._path(name).exists()
        fs, key = self._remote(name)
        return bool(fs.exists(key))

    def size(self, name: str) -> int:
        """Bytes of one object. Raises FileNotFoundError."""
        if self.local is not None:
            return self._path(name).stat().st_size
        fs, key = self._remote(name)
        return int(fs.info(key)["size"])

    def list(self, prefix: str = "") -> dict[str, int]:
        """Every object whose name starts with the folder `prefix` ("" = all): name -> bytes, sorted by name.

        Temporary files of writes in progress are not objects and do not appear.
        """
        found = sorted(self._walk(prefix))
        return {name: size for name, (size, _) in found if not durable_files.is_temporary(name)}

    def ages(self, temporary: bool = False) -> dict[str, float]:
        """Seconds since each object (or, if `temporary`, each leftover temporary file) was written."""
        now = time.time()
        return {name: now - when for name, when in self.written(temporary).items()}

    def written(self, temporary: bool = False) -> dict[str, float]:
        """When each object (or leftover temporary file) was written, in seconds since the epoch."""
        found = self._walk("")
        return {name: when for name, (_, when) in found if durable_files.is_temporary(name) == temporary}

    def delete(self, name: str) -> None:
        """Remove one object; nothing happens when it is absent."""
        if self.local is not None:
            durable_files.remove(self._path(name))
            return
        fs, key = self._remote(name)
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(key)

    def delete_all(self) -> None:
        """Remove everything under the root. A local root directory itself stays: it may be a mount point."""
        if self.local is not None:
            for entry in self.local.iterdir() if self.local.exists() else ():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            return
        fs, key = self._remote("")
        if fs.exists(key):
            fs.rm(key, recursive=True)

    def require_conditional_create(self) -> None:
        """Refuse a store on which create-if-absent is not one.

        Some S3-compatible servers accept the condition and ignore it: two writers would both believe that
        they created the same record. Raises InputError.
        """
        name = f"_log/probe-{uuid.uuid4().hex}"
        try:
            first, second = self.create(name, b"first"), self.create(name, b"second")
            kept = self.read(name)
        except (NotImplementedError, TypeError, ValueError) as error:
            raise InputError(
                f"{self}: the store has no create-if-absent ({error}). {_PROBE_ADVICE}"
            ) from error
        finally:
            self.delete(name)
        if not first or second or kept != b"first":
            raise InputError(f"{self}: the store ignores the create-if-absent condition. {_PROBE_ADVICE}")

    def _path(self, name: str) -> Path:
        return Path(self.root, _checked(name)) if name else Path(self.root)

    def _remote(self, name: str) -> tuple[Any, str]:
        # Listings must not be cached: other processes write into the same prefix.
        fs, root = fsspec.core.url_to_fs(self.root, use_listings_cache=False)
        if isinstance(fs, LocalFileSystem):
            raise InputError(f"{self.root}: give a local directory as a plain path")
        return fs, f"{root.rstrip('/')}/{_checked(name)}" if name else root

    def _walk(self, prefix: str) -> Iterator[tuple[str, tuple[int, float]]]:
        """(name, (bytes, time of writing in seconds since the epoch)) of everything below `prefix`."""
        if self.local is not None:
            for name, stat in durable_files.walk(str(self._path(prefix))):
                yield f"{prefix}/{name}" if prefix else name, (stat.st_size, stat.st_mtime)
            return
        fs, root = self._remote("")
        top_key = f"{root}/{_checked(prefix)}" if prefix else root
        for key, entry in fs.find(top_key, detail=True).items():
            yield key[len(root) :].lstrip("/"), (int(entry["size"]), _written_at(fs, key, entry))


_PROBE_ADVICE = (
    "Commits need a store where only one of two writers can create an object: local disk, a POSIX network "
    "share, or an object store with conditional writes (S3, GCS, Azure, recent MinIO or Ceph)."
)


def _remote_ranges(location: Location, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    fs, key = location._remote(name)
    starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
    try:
        return list(fs.cat_ranges([key] * len(starts), starts, stops, on_error="raise")) if starts else []
    except FileNotFoundError:
        raise
    except OSError as error:
        size = location.size(name)
        if size < max(stops):  # a range that starts behind the end is an error of its own on S3
            raise DamagedDataset(
                f"{location}/{name}: {size} bytes, {max(stops)} expected; the object is truncated"
            ) from error
        raise


def _checked(name: str) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name!r} is not a name inside a location")
    return name


def _written_at(fs: Any, key: str, entry: dict[str, Any]) -> float:
    # Each fsspec store has its own word for it: s3, gcs, azure/hdfs, memory.
    for field in ("LastModified", "updated", "last_modified", "mtime", "created"):
        if field in entry:
            when = entry[field]
            break
    else:
        when = fs.modified(key)
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    return when.timestamp() if isinstance(when, datetime) else float(when)
