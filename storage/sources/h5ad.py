"""AnnData in HDF5 (`.h5ad`), read in blocks straight from its datasets."""

from __future__ import annotations

import h5py

from storage.sources.anndata_groups import open_groups
from storage.sources.hdf5 import open_hdf5
from storage.sources.source import Source


def recognises(root: h5py.File) -> bool:
    return "obs" in root or "X" in root


def open(path: str) -> Source:
    """Raises UnreadableSource when the file is not HDF5, is cut off or is not AnnData."""
    root = open_hdf5(path)
    source = open_groups(path, "h5ad", root, [path])
    source.closers.append(root.close)
    return source
