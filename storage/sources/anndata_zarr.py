"""AnnData in zarr (format 2 or 3), read in blocks straight from its arrays."""

from __future__ import annotations

from typing import Any

import zarr

from storage.locations import Location
from storage.sources.anndata_groups import open_groups
from storage.sources.source import Source, UnreadableSource, reading


def recognises(location: Location) -> bool:
    return location.exists("zarr.json") or location.exists(".zgroup")


def open(path: str) -> Source:
    """Raises UnreadableSource when it is not AnnData or when chunks of a sparse matrix are missing."""
    with reading(path):
        root = zarr.open_group(path, mode="r")
    source = open_groups(path, "AnnData zarr", root, [f"{path}/{name}" for name in Location.of(path).list()])
    for key in source.matrices:
        place = {"X": "X", "raw": "raw/X"}.get(key, key.replace("layer:", "layers/"))
        _require_chunks(f"{path}: {place}", root[place])
    return source


def _require_chunks(where: str, element: Any) -> None:
    """zarr reads a missing chunk as zeros. A dense array may leave empty chunks out; a sparse one has
    none.
    """
    if isinstance(element, zarr.Array):
        return
    for name in ("data", "indices", "indptr"):
        array = element[name]
        with reading(f"{where}/{name}"):
            expected, found = (
                (array.nchunks, array.nchunks_initialized) if array.shards is None else _shards(array)
            )
        if found < expected:
            raise UnreadableSource(
                f"{where}/{name}: {expected - found:,} of {expected:,} chunk files are missing."
            )


def _shards(array: Any) -> tuple[int, int]:
    return int(array.nshards), int(array.nshards_initialized)
