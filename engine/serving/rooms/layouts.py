"""A map that somebody made before: two columns of an annotated h5ad, by the cells' names."""

from __future__ import annotations

from collections.abc import Sequence

import fsspec
import h5py
import numpy as np
import numpy.typing as npt

from storage.errors import InputError

# As `annotate` writes it; scanpy's own is taken too.
KEYS = ("X_cellwhisperer_umap", "X_umap")


def read_map(path: str, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """`[N, 2]` float32: places of these cells, NaN for those the file does not have.

    Raises InputError when the file holds no map, or of none of the cells.
    """
    with fsspec.open(path, "rb") as opened, h5py.File(opened, "r") as file:
        key = next((name for name in KEYS if f"obsm/{name}" in file), None)
        if key is None:
            raise InputError(f"{path}: no obsm {' or '.join(KEYS)}; make the file with annotate")
        obs = file["obs"]
        index = obs[obs.attrs["_index"]].asstr()[:]
        places = np.asarray(file[f"obsm/{key}"][:, :2], np.float32)
    row = {str(name): number for number, name in enumerate(index)}
    found = np.array([row.get(name, -1) for name in names], np.int64)
    if not (found >= 0).any():
        raise InputError(f"{path}: has none of the cells of the index, by name")
    at_N2 = np.full((len(names), 2), np.nan, np.float32)
    at_N2[found >= 0] = places[found[found >= 0]]
    return at_N2
