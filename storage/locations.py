"""Files and objects under one root, on local disk or in any fsspec store.

`Location` is the only place that knows how a name becomes bytes. It offers what the commit protocol
(`storage.commits`) needs and nothing more: whole-object atomic writes, create-if-absent, range reads, lists.

On local disk a write is: whole file, fsync, name, fsync of the directory (`storage.durable_files`), so
a reader sees the old content or the new one, never a part, and a power cut cannot lose what was reported as
written. On an object store (`storage.object_stores`) a write is one PUT, create-if-absent a conditional one,
and requests that fail for a reason that passes are repeated: StoreUnavailable says that it did not pass.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage import durable_files, object_stores
from storage.durable_files import Buffer, Content
from storage.errors import DamagedDataset, InputError

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
        return object_stores.read(self._url(name))

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Byte ranges `[start, stop)` of one object, in the order asked.

        Raises FileNotFoundError, and DamagedDataset when the object ends before a range does.
        """
        if self.local is not None:
            parts = durable_files.read_ranges(self._path(name), ranges)
        else:
            parts = object_stores.read_ranges(self._url(name), ranges)
        for (start, stop), part in zip(ranges, parts, strict=True):
            if len(part) != stop - start:
                raise DamagedDataset(
                    f"{self}/{name}: ends inside the byte range {start}-{stop} ({len(part)} bytes found, "
                    f"{stop - start} expected); the object is truncated"
                )
        return parts

    def put(self, name: str, content: Content) -> None:
        """Write the object whole, replacing what is there. Durable and visible at once, or not at all."""
        if self.local is not None:
            durable_files.replace(self._path(name), content)
        else:
            object_stores.put(self._url(name), content)

    def create(self, name: str, content: Buffer) -> bool:
        """Write the object only if none has that name; False when one has.

        Of any number of writers that race with different contents at most one gets True. A connection lost in
        mid-answer leaves open who won; an object with our own content then counts as ours.
        """
        if self.local is None:
            return object_stores.create(self._url(name), content)
        try:
            return durable_files.create(self._path(name), content)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            raise InputError(f"{self}: this file system has no hard links. {_PROBE_ADVICE}") from error

    def put_file(self, name: str, source: Path) -> None:
        """Like `put`, for content too large for memory: takes over a local file, which is gone afterwards."""
        if self.local is not None:
            durable_files.take_over(source, self._path(name))
            return
        object_stores.put_file(self._url(name), source)
        source.unlink()

    def get_file(self, name: str, target: Path) -> None:
        """Copy one object into a local file that does not exist yet. Raises FileNotFoundError."""
        if self.local is not None:
            shutil.copyfile(self._path(name), target)
        else:
            object_stores.get_file(self._url(name), target)

    def exists(self, name: str = "") -> bool:
        if self.local is not None:
            return self._path(name).exists()
        return object_stores.exists(self._url(name))

    def size(self, name: str) -> int:
        """Bytes of one object. Raises FileNotFoundError."""
        if self.local is not None:
            return self._path(name).stat().st_size
        return object_stores.size(self._url(name))

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
        else:
            object_stores.remove(self._url(name))

    def delete_all(self) -> None:
        """Remove everything under the root. A local root directory itself stays: it may be a mount point."""
        if self.local is None:
            object_stores.remove_all(self.root)
            return
        for entry in self.local.iterdir() if self.local.exists() else ():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

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

    def _url(self, name: str) -> str:
        return f"{self.root}/{_checked(name)}" if name else self.root

    def _walk(self, prefix: str) -> Iterator[tuple[str, tuple[int, float]]]:
        """(name, (bytes, time of writing in seconds since the epoch)) of everything below `prefix`."""
        if self.local is not None:
            for name, stat in durable_files.walk(str(self._path(prefix))):
                yield f"{prefix}/{name}" if prefix else name, (stat.st_size, stat.st_mtime)
            return
        for name, size, when in object_stores.walk(self._url(prefix)):
            yield f"{prefix}/{name}" if prefix else name, (size, when)


_PROBE_ADVICE = (
    "Commits need a store where only one of two writers can create an object: local disk, a POSIX network "
    "share, or an object store with conditional writes (S3, GCS, Azure, recent MinIO or Ceph)."
)


def _checked(name: str) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name!r} is not a name inside a location")
    return name
