"""Input formats, one module each with the same anatomy: `recognises(...)`, `open(path) -> Source`.

`open_source` finds the module by what the file holds, not by its name alone.
"""

from __future__ import annotations

from storage.errors import InputError
from storage.locations import Location
from storage.sources import anndata_zarr, h5ad, tenx_h5, tenx_mtx
from storage.sources.hdf5 import open_hdf5
from storage.sources.source import CountMatrix, Frame, Layout, Sample, Source, UnreadableSource

__all__ = ["CountMatrix", "Frame", "Layout", "Sample", "Source", "UnreadableSource", "open_source"]

_EXPECTED = "expected .h5ad, a 10x .h5, a 10x folder with matrix.mtx, or an AnnData .zarr folder."


def open_source(path: str) -> Source:
    """Open one input read-only. Raises InputError when it does not exist, UnreadableSource when it is
    damaged.
    """
    if path.endswith((".mtx", ".mtx.gz")):
        path = path.rpartition("/")[0] or "."
    location = Location.of(path)
    if location.local is not None and not location.local.exists():
        raise InputError(f"{path}: does not exist; {_EXPECTED}")
    if tenx_mtx.recognises(location):
        return tenx_mtx.open(path)
    if anndata_zarr.recognises(location):
        return anndata_zarr.open(path)
    if location.local is not None and location.local.is_dir():
        raise InputError(f"{path}: a folder without matrix.mtx, zarr.json or .zgroup; {_EXPECTED}")
    return _open_file(path, location)


def _open_file(path: str, location: Location) -> Source:
    try:
        size = location.size("")
    except FileNotFoundError as error:
        raise InputError(f"{path}: does not exist; {_EXPECTED}") from error
    if size == 0:
        raise UnreadableSource(f"{path}: is empty (0 bytes). The copy or download did not finish.")
    with open_hdf5(path) as root:
        is_tenx, is_anndata = tenx_h5.recognises(root), h5ad.recognises(root)
        found = sorted(root)
    if is_tenx:
        return tenx_h5.open(path)
    if is_anndata:
        return h5ad.open(path)
    raise UnreadableSource(f"{path}: an HDF5 file with {found}; {_EXPECTED}")
