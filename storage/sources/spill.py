"""Cells out of entries that come in any order, in bounded memory: buckets of cells on the local disk.

CSC matrices list entries by gene and Matrix Market files in any order. Entries are appended to the
temporary file of their range of cells; a range is then small enough to be sorted in memory.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

# Expected entries of one bucket. Cells differ in depth; ten times the expectation still sorts in a few 100
# MB.
BUCKET_ELEMENTS = 1 << 21


class RowSpill:
    """Entries (cell, gene, value) of a matrix of `shape`, about `n_entries` of them, kept on disk by cell.

    Takes 8 bytes plus the value's size per entry under the temporary directory (TMPDIR) until closed.
    """

    def __init__(self, shape: tuple[int, int], n_entries: int, dtype: npt.DTypeLike) -> None:
        self.shape, self.n_entries = shape, 0
        n_buckets = min(max(1, n_entries // BUCKET_ELEMENTS), max(shape[0], 1), 1 << 16)
        self._cells_per_bucket = max(1, -(-shape[0] // n_buckets))
        self._entry = np.dtype([("cell", "<i4"), ("gene", "<i4"), ("value", np.dtype(dtype))])
        self._folder = Path(tempfile.mkdtemp(prefix="syncytium-cells-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def add(self, cells: npt.NDArray[Any], genes: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """Append entries; cells and genes must be inside the shape."""
        buckets = (cells // self._cells_per_bucket).astype(np.uint16)
        order = np.argsort(buckets, kind="stable")  # a radix sort for 16-bit numbers
        entries = np.empty(len(cells), self._entry)
        entries["cell"], entries["gene"], entries["value"] = cells[order], genes[order], values[order]
        numbers, starts = np.unique(buckets[order], return_index=True)
        for number, start, stop in zip(numbers, starts, [*starts[1:], len(entries)], strict=True):
            with open(self._folder / str(number), "ab") as stream:
                entries[start:stop].tofile(stream)
        self.n_entries += len(entries)

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """(first cell, rows) for the cells `[start, stop)`; an entry that was given twice is summed."""
        first = start
        while first < stop:
            bucket = first // self._cells_per_bucket
            bucket_start = bucket * self._cells_per_bucket
            last = min(stop, bucket_start + self._cells_per_bucket, self.shape[0])
            yield first, self._bucket(bucket)[first - bucket_start : last - bucket_start]
            first = last

    def cells_without_entries(self) -> int:
        return sum(int((np.diff(rows.indptr) == 0).sum()) for _, rows in self.blocks(0, self.shape[0]))

    def close(self) -> None:
        self._remove()

    def _bucket(self, bucket: int) -> sparse.csr_matrix:
        path = self._folder / str(bucket)
        entries = np.fromfile(path, self._entry) if path.exists() else np.empty(0, self._entry)
        start = bucket * self._cells_per_bucket
        n_cells = min(self._cells_per_bucket, self.shape[0] - start)
        places = (entries["cell"] - start, entries["gene"])
        return sparse.coo_matrix((entries["value"], places), shape=(n_cells, self.shape[1])).tocsr()
