"""Count matrices as HDF5 and zarr store them: compressed by cell (CSR), by gene (CSC), or dense.

The same code serves both libraries: a dataset is anything that has `shape`, `dtype` and slicing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from storage.sources.source import BLOCK_ELEMENTS, Sample, UnreadableSource, reading
from storage.sources.spill import RowSpill

SAMPLE_ELEMENTS = 1 << 16
# Pieces of the row pointers read at once; a file of 100 million cells has 800 MB of them.
_POINTER_ROWS = 1 << 16
# Counting the entries of each cell of a CSC matrix reads all row numbers: seconds up to here, minutes beyond.
_COUNT_EMPTY_UP_TO = 100_000_000


class CsrMatrix:
    """Arrays `data`, `indices`, `indptr` with one row a cell (AnnData CSR; 10x HDF5, which calls it CSC
    of genes).
    """

    layout = "csr"
    by_rows = True

    def __init__(self, where: str, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> None:
        self.where, self.shape = where, shape
        self._data, self._indices, self._indptr = data, indices, indptr
        self.dtype = np.dtype(data.dtype)
        _check_pointers(where, data, indices, indptr, shape[0])

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        for first in range(start, stop, _POINTER_ROWS):
            with reading(f"{self.where}/indptr"):
                pointers = np.asarray(
                    self._indptr[first : min(first + _POINTER_ROWS, stop) + 1], dtype=np.int64
                )
            if (np.diff(pointers) < 0).any() or pointers[0] < 0 or pointers[-1] > self._data.shape[0]:
                raise UnreadableSource(
                    f"{self.where}/indptr: decreases or points outside near cell {first:,}."
                )
            row = 0
            while row < len(pointers) - 1:
                end = int(np.searchsorted(pointers, pointers[row] + BLOCK_ELEMENTS, side="right")) - 1
                end = min(max(end, row + 1), len(pointers) - 1)
                yield first + row, self._rows(pointers[row : end + 1], first + row)
                row = end

    def _rows(self, pointers: npt.NDArray[np.int64], first: int) -> sparse.csr_matrix:
        cells = f"cells {first:,}-{first + len(pointers) - 1:,}"
        with reading(f"{self.where}, {cells}"):
            values = np.asarray(self._data[pointers[0] : pointers[-1]])
            genes = np.asarray(self._indices[pointers[0] : pointers[-1]])
        require_inside(genes, self.shape[1], f"{self.where}/indices, {cells}")
        shape = (len(pointers) - 1, self.shape[1])
        return sparse.csr_matrix((values, genes.astype(np.int32), pointers - pointers[0]), shape=shape)

    def samples(self, n: int) -> Iterator[Sample]:
        for start, stop in spread(self._data.shape[0], n, SAMPLE_ELEMENTS):
            with reading(f"{self.where}, stored values {start:,}-{stop:,}"):
                genes, values = np.asarray(self._indices[start:stop]), np.asarray(self._data[start:stop])
            require_inside(genes, self.shape[1], f"{self.where}/indices, stored values {start:,}-{stop:,}")
            yield Sample(f"stored values {start:,}-{stop:,}", genes, values)

    def empty_cells(self) -> int:
        empty = 0
        for first in range(0, self.shape[0], _POINTER_ROWS):
            with reading(f"{self.where}/indptr"):
                empty += int((np.diff(self._indptr[first : first + _POINTER_ROWS + 1]) == 0).sum())
        return empty

    def close(self) -> None:
        pass


class CscMatrix:
    """Arrays with one column a gene. Rows exist only after a transpose through temporary files
    (`RowSpill`).
    """

    layout = "csc"
    by_rows = False

    def __init__(self, where: str, data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> None:
        self.where, self.shape = where, shape
        self._data, self._indices = data, indices
        self.dtype = np.dtype(data.dtype)
        _check_pointers(where, data, indices, indptr, shape[1])
        with reading(f"{where}/indptr"):
            self._indptr = np.asarray(indptr[:], dtype=np.int64)
        if (np.diff(self._indptr) < 0).any():
            raise UnreadableSource(f"{where}/indptr: decreases.")
        self._spill: RowSpill | None = None

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        if self._spill is None:
            self._spill = self._transposed()
        yield from self._spill.blocks(start, stop)

    def _transposed(self) -> RowSpill:
        spill = RowSpill(self.shape, self._data.shape[0], self.dtype)
        for start in range(0, self._data.shape[0], BLOCK_ELEMENTS):
            stop = min(start + BLOCK_ELEMENTS, self._data.shape[0])
            with reading(f"{self.where}, stored values {start:,}-{stop:,}"):
                cells, values = np.asarray(self._indices[start:stop]), np.asarray(self._data[start:stop])
            require_inside(cells, self.shape[0], f"{self.where}/indices, stored values {start:,}-{stop:,}")
            spill.add(cells, self._genes(start, stop), values)
        return spill

    def _genes(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """The column of each stored value in `[start, stop)`."""
        first = int(np.searchsorted(self._indptr, start, side="right")) - 1
        last = int(np.searchsorted(self._indptr, stop, side="left"))
        edges = np.clip(self._indptr[first : last + 1], start, stop)
        lengths = edges[1:] - edges[:-1]
        return np.repeat(np.arange(first, last, dtype=np.int32), lengths)

    def samples(self, n: int) -> Iterator[Sample]:
        for start, stop in spread(self._data.shape[0], n, SAMPLE_ELEMENTS):
            with reading(f"{self.where}, stored values {start:,}-{stop:,}"):
                values = np.asarray(self._data[start:stop])
            yield Sample(f"stored values {start:,}-{stop:,}", self._genes(start, stop), values)

    def empty_cells(self) -> int | None:
        if self._data.shape[0] > _COUNT_EMPTY_UP_TO:
            return None
        filled = np.zeros(self.shape[0], dtype=bool)
        for start in range(0, self._data.shape[0], BLOCK_ELEMENTS):
            with reading(f"{self.where}/indices"):
                cells = np.asarray(self._indices[start : start + BLOCK_ELEMENTS])
            require_inside(cells, self.shape[0], f"{self.where}/indices")
            filled[cells] = True
        return int((~filled).sum())

    def close(self) -> None:
        if self._spill is not None:
            self._spill.close()
            self._spill = None


class DenseMatrix:
    """A plain two-dimensional array; zeros are dropped on reading."""

    layout = "dense"
    by_rows = True

    def __init__(self, where: str, array: Any) -> None:
        self.where, self._array = where, array
        self.shape: tuple[int, int] = (int(array.shape[0]), int(array.shape[1]))
        self.dtype = np.dtype(array.dtype)
        rows = max(1, BLOCK_ELEMENTS // max(self.shape[1], 1))
        chunk_rows = (getattr(array, "chunks", None) or (1,))[0]
        # A chunk of rows is decompressed whole, so reading less than one at a time would repeat the work.
        self._rows_per_block = rows if chunk_rows > 4 * rows else max(rows // chunk_rows, 1) * chunk_rows

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        for first in range(start, stop, self._rows_per_block):
            last = min(first + self._rows_per_block, stop)
            yield first, sparse.csr_matrix(self._read(first, last))

    def samples(self, n: int) -> Iterator[Sample]:
        rows = max(1, SAMPLE_ELEMENTS // max(self.shape[1], 1))
        for first, last in spread(self.shape[0], n, rows):
            values = self._read(first, last)
            cells, genes = np.nonzero(values)
            yield Sample(f"cells {first:,}-{last:,}", genes, values[cells, genes])

    def empty_cells(self) -> None:
        return None

    def close(self) -> None:
        pass

    def _read(self, first: int, last: int) -> npt.NDArray[Any]:
        with reading(f"{self.where}, cells {first:,}-{last:,}"):
            return np.asarray(self._array[first:last, :])


def spread(total: int, n: int, length: int) -> list[tuple[int, int]]:
    """At most `n` ranges of `length` spread evenly over `[0, total)`, the first and the last included."""
    if total <= n * length:
        return [(start, min(start + length, total)) for start in range(0, total, length)]
    starts = np.linspace(0, total - length, n).astype(np.int64)
    return [(int(start), int(start) + length) for start in starts]


def require_inside(numbers: npt.NDArray[Any], n: int, where: str) -> None:
    """Raise UnreadableSource unless all are in `[0, n)`."""
    if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >= n):
        low, high = int(numbers.min()), int(numbers.max())
        raise UnreadableSource(
            f"{where}: numbers {low:,} to {high:,} found, expected 0 to {n - 1:,}; damaged file."
        )


def _check_pointers(where: str, data: Any, indices: Any, indptr: Any, n: int) -> None:
    if data.shape != indices.shape or indptr.shape != (n + 1,):
        raise UnreadableSource(
            f"{where}: {data.shape[0]:,} values, {indices.shape[0]:,} indices, {indptr.shape[0]:,} pointers "
            f"for {n:,} rows do not fit together; the file is damaged or incomplete."
        )
    with reading(f"{where}/indptr"):
        first, last = int(indptr[0]), int(indptr[n])
    if first != 0 or last != data.shape[0]:
        raise UnreadableSource(
            f"{where}/indptr: goes from {first:,} to {last:,}, expected 0 to {data.shape[0]:,}."
        )
