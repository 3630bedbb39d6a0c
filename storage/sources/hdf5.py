"""Opening HDF5 files, local or in an object store."""

from __future__ import annotations

import fsspec
import h5py

from storage.sources.source import UnreadableSource, reading

# Row blocks end inside HDF5 chunks; the cache keeps the chunk that the next block begins with (default: 1
# MB).
_CHUNK_CACHE_BYTES = 1 << 24


def open_hdf5(path: str) -> h5py.File:
    """Read-only. Raises UnreadableSource for files that are cut off, empty, not HDF5, or being written."""
    with reading(path):
        if "://" in path:
            return h5py.File(fsspec.open(path, "rb").open(), "r", rdcc_nbytes=_CHUNK_CACHE_BYTES)
        try:
            # Network file systems without locks are read all the same.
            return h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES, locking="best-effort")
        except BlockingIOError as error:
            message = f"{path}: another program is writing it; close it there and try again."
            raise UnreadableSource(message) from error
