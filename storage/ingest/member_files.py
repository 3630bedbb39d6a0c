"""The objects of one member of a cell store: an AnnData zarr v3 group with counts in our own shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from scipy import sparse

from storage.shards import COUNTS, GENES, Put, ShardedArrayWriter, put_single_chunk


def group_metadata(attributes: Mapping[str, Any]) -> bytes:
    """The `zarr.json` of a zarr v3 group."""
    return json.dumps({"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}).encode()


class CountsWriter:
    """Appends rows to `<group>/X`: the arrays `data`, `indices`, `indptr` of an AnnData CSR matrix."""

    def __init__(self, group: str, n_genes: int, dtype: npt.DTypeLike, put: Put) -> None:
        self.group, self.n_genes = group, n_genes
        self._put = put
        self._data = ShardedArrayWriter(f"{group}/X/data", dtype, COUNTS, put)
        self._indices = ShardedArrayWriter(f"{group}/X/indices", gene_dtype(n_genes), GENES, put)
        self._lengths: list[npt.NDArray[np.int64]] = []
        self._totals: list[npt.NDArray[np.int64]] = []

    def append(self, rows: sparse.csr_matrix) -> None:
        """Add rows with ascending genes and no zeros, whose counts fit the array's type."""
        self._data.append(rows.data)
        self._indices.append(rows.indices)
        self._lengths.append(np.diff(rows.indptr).astype(np.int64))
        self._totals.append(np.asarray(rows.sum(axis=1), dtype=np.int64).ravel())

    def close(self) -> None:
        """Write what is left, the row pointers and the metadata."""
        self._data.close()
        self._indices.close()
        indptr = np.concatenate([[0], np.cumsum(self.genes_per_cell)]).astype(np.int64)
        put_single_chunk(f"{self.group}/X/indptr", indptr, COUNTS, self._put)
        shape = [len(indptr) - 1, self.n_genes]
        encoding = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape}
        self._put(f"{self.group}/X/zarr.json", group_metadata(encoding))

    @property
    def genes_per_cell(self) -> npt.NDArray[np.int32]:
        return np.concatenate([np.empty(0, np.int64), *self._lengths]).astype(np.int32)

    @property
    def totals_per_cell(self) -> npt.NDArray[np.int64]:
        return np.concatenate([np.empty(0, np.int64), *self._totals])


def gene_dtype(n_genes: int) -> np.dtype[Any]:
    """uint16 for up to 65,536 genes (every human annotation), else uint32."""
    return np.dtype(np.uint16 if n_genes <= 1 << 16 else np.uint32)


def put_tables(group: str, obs: pd.DataFrame, var: pd.DataFrame, put: Put) -> None:
    """Write obs and var as AnnData does, and the group that makes it an AnnData."""
    kept: dict[str, Any] = {}
    # Sharding these small arrays would only add an index to each; nullable strings keep missing names
    # missing.
    with anndata.settings.override(allow_write_nullable_strings=True, auto_shard_zarr_v3=False):
        root = zarr.open_group(zarr.storage.MemoryStore(kept), mode="w", zarr_format=3)
        anndata.io.write_elem(root, "obs", obs)
        anndata.io.write_elem(root, "var", var)
    for name in sorted(kept):
        if name != "zarr.json":
            put(f"{group}/{name}", kept[name].to_bytes())
    put(f"{group}/zarr.json", group_metadata({"encoding-type": "anndata", "encoding-version": "0.1.0"}))
