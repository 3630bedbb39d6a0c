"""An h5ad file written piece by piece, in bounded memory, that appears whole or not at all.

    with new_h5ad("cells.h5ad") as h5ad:
        h5ad.write("obs", obs)
        rows = h5ad.rows("obsm/X_umap", n_cells, 2)
        rows[0:4096] = ...
        h5ad.write_csc((n_cells, n_genes), blocks)

Encodings: AnnData's on-disk specification 0.1.0. Shape legend: C cells, G genes, K columns.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from scipy import sparse

from storage.errors import InputError
from storage.locations import Location

_ROOT_GROUPS = ("layers", "obsm", "obsp", "varm", "varp", "uns")
# Rows of a chunk hold about this many bytes: a reader that wants one cell reads little, one that wants all
# makes few requests.
_CHUNK_BYTES = 1 << 18


class H5adFile:
    """The file being written. Elements are named by their path in it, such as `obsm/X_umap`."""

    def __init__(self, root: h5py.File) -> None:
        self._root = root
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name in _ROOT_GROUPS:
            self._mapping(root, name)

    def write(self, name: str, element: Any) -> None:
        """Anything AnnData can write: tables, arrays, dictionaries, strings."""
        from anndata.io import write_elem

        write_elem(self._root, name, element)

    def rows(self, name: str, n_cells: int, width: int, dtype: npt.DTypeLike = np.float32) -> Any:
        """An array [C, width] to be filled by slices; rows never written are NaN."""
        rows = self._rows_of(self._root, name, (n_cells, width), dtype)
        rows.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        return rows

    def categorical_rows(
        self, name: str, columns: Sequence[str], cell_names: npt.NDArray[Any], categories: Sequence[str]
    ) -> list[Any]:
        """A table [C, K] whose columns share their categories, which are stored once: codes to be filled by
        slices, one array a column; -1 where nothing is written.
        """
        self.write(f"{name}/_index", np.asarray(cell_names, dtype=object))
        table = self._root[name]
        table.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
        table.attrs["column-order"] = np.asarray(columns, dtype=h5py.string_dtype())
        codes = np.min_scalar_type(-max(len(categories), 1))
        filled: list[Any] = []
        for column in columns:
            group = table.create_group(column)
            group.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0"})
            group.attrs["ordered"] = False
            if filled:
                group["categories"] = table[columns[0]]["categories"]
            else:
                self.write(f"{name}/{column}/categories", np.asarray(categories, dtype=object))
            column_codes = self._rows_of(group, "codes", (len(cell_names),), codes)
            column_codes.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
            filled.append(column_codes)
        return filled

    def write_csc(self, shape: tuple[int, int], blocks: Iterable[sparse.csr_matrix]) -> int:
        """X [C, G] as float32 CSC from blocks of consecutive genes, each [genes of the block, C]. Returns the
        number of stored values. Raises ValueError when the blocks are not all genes.
        """
        group = self._root.create_group("X")
        group.attrs.update({"encoding-type": "csc_matrix", "encoding-version": "0.1.0"})
        group.attrs["shape"] = np.asarray(shape, dtype=np.int64)
        values = group.create_dataset("data", (0,), np.float32, maxshape=(None,), chunks=(1 << 16,))
        cells = group.create_dataset("indices", (0,), np.int32, maxshape=(None,), chunks=(1 << 16,))
        lengths = [np.zeros(1, np.int64)]
        for block in blocks:
            before, after = len(values), len(values) + block.nnz
            values.resize((after,))
            cells.resize((after,))
            values[before:after], cells[before:after] = block.data.astype(np.float32), block.indices
            lengths.append(np.diff(block.indptr).astype(np.int64))
        pointers = np.cumsum(np.concatenate(lengths))
        if len(pointers) != shape[1] + 1:
            raise ValueError(f"X: blocks of {len(pointers) - 1} genes were given, expected {shape[1]}")
        group.create_dataset("indptr", data=pointers)
        return int(pointers[-1])

    @staticmethod
    def _mapping(root: h5py.Group, name: str) -> None:
        root.create_group(name).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})

    @staticmethod
    def _rows_of(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        kind = np.dtype(dtype)
        width = int(np.prod(shape[1:], dtype=np.int64)) if len(shape) > 1 else 1
        chunk_rows = min(max(1, _CHUNK_BYTES // max(1, width * kind.itemsize)), max(shape[0], 1))
        fill = np.nan if kind.kind == "f" else -1
        chunks = (chunk_rows, *shape[1:]) if shape[0] and width else None
        return group.create_dataset(name, shape, kind, chunks=chunks, fillvalue=fill)


@contextmanager
def new_h5ad(output: str | os.PathLike[str]) -> Iterator[H5adFile]:
    """A file that gets its name when the block ends without an error; until then readers see the old one.

    output: a local path or an fsspec URL. Written beside its destination, or, for an object store, under the
    temporary directory first. Raises InputError for a name that is a directory.
    """
    parent, name = split_name(output)
    if parent.local is not None:
        parent.local.mkdir(parents=True, exist_ok=True)
    folder = parent.local if parent.local is not None else Path(tempfile.gettempdir())
    unfinished = folder / f".{name}-{uuid.uuid4().hex[:8]}.tmp"
    try:
        with h5py.File(unfinished, "w") as root:
            yield H5adFile(root)
        parent.put_file(name, unfinished)
    finally:
        unfinished.unlink(missing_ok=True)


def split_name(output: str | os.PathLike[str]) -> tuple[Location, str]:
    """The folder of a file, and its name in it. Raises InputError for a name that is a directory."""
    location = Location.of(output)
    folder, _, name = str(location).rpartition("/")
    if not name or (location.local is not None and location.local.is_dir()):
        raise InputError(f"{output}: is a directory; name the file to write, say {output}/cells.h5ad.")
    return Location.of(folder or "/"), name
