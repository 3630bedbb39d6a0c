"""Maps that somebody made before: the first two columns of each obsm of an h5ad, by the cells' names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fsspec
import h5py
import numpy as np
import numpy.typing as npt

from storage.errors import InputError

# Shown first, where they are there: what `annotate` writes, scanpy's own, places in a tissue.
FIRST = ("X_cellwhisperer_umap", "X_umap", "spatial")


def read_maps(path: str, names: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Key of obsm -> `[N, 2]` float32 places of these cells, NaN for those the file does not have.

    Raises InputError when the file holds no map, or of none of the cells.
    """
    with fsspec.open(path, "rb") as opened, h5py.File(opened, "r") as file:
        keys = [key for key, of in file.get("obsm", {}).items() if _is_map(of)]
        if not keys:
            raise InputError(f"{path}: no obsm of two columns or more; make the file with annotate")
        keys.sort(key=lambda key: (FIRST.index(key) if key in FIRST else len(FIRST), key))
        obs = file["obs"]
        index = obs[obs.attrs["_index"]].asstr()[:]
        places = {key: np.asarray(file[f"obsm/{key}"][:, :2], np.float32) for key in keys}
    row = {str(name): number for number, name in enumerate(index)}
    found = np.array([row.get(name, -1) for name in names], np.int64)
    if not (found >= 0).any():
        raise InputError(f"{path}: has none of the cells of the index, by name")
    maps = {}
    for key in keys:
        maps[key] = np.full((len(names), 2), np.nan, np.float32)
        maps[key][found >= 0] = places[key][found[found >= 0]]
    return maps


def _is_map(of: Any) -> bool:
    """Dense numbers of two columns or more; a sparse matrix or a table is a group."""
    return isinstance(of, h5py.Dataset) and of.ndim == 2 and of.shape[1] >= 2 and of.dtype.kind in "fiu"
