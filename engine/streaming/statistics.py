"""Statistics of every gene over a whole cell store: totals, means, medians of the non-zero values.

dask cuts the store into blocks of cells, Ray runs them, and what a block leaves behind (sums and a
histogram per gene) adds up in any order, so memory does not grow with the number of cells.

Medians are found by radix selection on the bits of float32: a first pass counts values per gene and 1/8
octave, a second one splits the piece that holds the median 256 times. The result is within 0.03% of the
exact median of normalised values, and exact for counts below 4,096.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import pandas as pd
from ray.util.dask import ray_dask_get
from scipy import sparse

from engine import ray_session
from storage.cells import CellStore

BLOCK_CELLS = 16_384
# Sums are merged in a tree: one task that adds all blocks would hold all of them.
_MERGED_AT_ONCE = 8
# Geneformer's medians are of counts per 10,000.
PER = 1e4

# float32: 8 bits of exponent and 23 of mantissa. A coarse bin keeps the exponent and 3 bits of the mantissa,
# a fine one the next 8.
_COARSE_SHIFT, _FINE_SHIFT = 20, 12
_COARSE_BINS, _FINE_BINS = 1 << (31 - _COARSE_SHIFT), 1 << (_COARSE_SHIFT - _FINE_SHIFT)


@dataclass
class _Sums:
    """What one block, or several, leave behind."""

    totals: npt.NDArray[np.float64]
    """[n_genes] sum of counts."""
    histogram: sparse.csr_matrix
    """[n_genes, bins] number of non-zero values."""

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.totals + other.totals, self.histogram + other.histogram)


def gene_statistics(store: CellStore, *, normalised: bool = True, address: str | None = None) -> pd.DataFrame:
    """One row a gene of the store: `n_cells` with a count, `total` and `mean` count, `nonzero_median`.

    The median is of counts per 10,000 of the cell's total (all genes), as Geneformer's dictionaries hold
    it, or with `normalised=False` of the counts themselves; NaN for a gene no cell has. Runs as dask
    tasks on Ray.
    """
    with ray_session.connect(address):
        first = _over_blocks(store, _coarse, normalised)
        n = np.asarray(first.histogram.sum(axis=1)).ravel().astype(np.int64)
        # The two middle ranks differ for an even number; their mean is the median.
        ranks = np.stack([(n - 1) // 2, n // 2])
        bins, inside = _locate(first.histogram, ranks)
        medians = np.zeros(store.n_genes)
        for middle in range(2):
            second = _over_blocks(store, _fine, normalised, bins[middle])
            fine, _ = _locate(second.histogram, inside[middle][None])
            medians += _value(bins[middle], fine[0], at_middle=normalised) / 2
    medians[n == 0] = np.nan
    totals = first.totals.astype(np.int64)
    table = {"n_cells": n, "total": totals, "mean": totals / store.n_cells, "nonzero_median": medians}
    return pd.DataFrame(table, index=store.genes.index)


def _over_blocks(store: CellStore, of_block: Callable[..., _Sums], *arguments: Any) -> _Sums:
    """The sum of `of_block(store, start, stop, *arguments)` over the store, computed on Ray."""
    shared = [dask.delayed(argument) for argument in arguments]
    block = dask.delayed(of_block, pure=False)
    parts = [block(store, start, stop, *shared) for start, stop in store.row_blocks(BLOCK_CELLS)]
    merge = dask.delayed(_merged, pure=False)
    while len(parts) > 1:
        parts = [merge(parts[i : i + _MERGED_AT_ONCE]) for i in range(0, len(parts), _MERGED_AT_ONCE)]
    (sums,) = dask.compute(parts[0], scheduler=ray_dask_get)
    result: _Sums = sums
    return result


def _merged(parts: Sequence[_Sums]) -> _Sums:
    return sum(parts[1:], start=parts[0])


def _values(store: CellStore, start: int, stop: int, normalised: bool) -> sparse.csr_matrix:
    rows = store.read(start, stop).to_csr()
    if normalised:
        totals = np.asarray(rows.sum(axis=1, dtype=np.float64)).ravel()
        scale = np.repeat(PER / np.maximum(totals, 1), np.diff(rows.indptr))
        rows.data = (rows.data * scale).astype(np.float32)
    return rows


def _coarse(store: CellStore, start: int, stop: int, normalised: bool) -> _Sums:
    counts = store.read(start, stop)
    totals = np.bincount(counts.indices, counts.counts, minlength=store.n_genes).astype(np.float64)
    rows = _values(store, start, stop, normalised)
    bins = rows.data.view(np.uint32) >> _COARSE_SHIFT
    return _Sums(totals, _histogram(rows.indices, bins, (store.n_genes, _COARSE_BINS)))


def _fine(store: CellStore, start: int, stop: int, normalised: bool, of_gene: npt.NDArray[np.int64]) -> _Sums:
    """The histogram inside one coarse bin `of_gene` [n_genes]."""
    rows = _values(store, start, stop, normalised)
    bits = rows.data.view(np.uint32)
    inside = (bits >> _COARSE_SHIFT) == of_gene[rows.indices]
    bins = (bits[inside] >> _FINE_SHIFT) & (_FINE_BINS - 1)
    shape = (store.n_genes, _FINE_BINS)
    return _Sums(np.zeros(store.n_genes), _histogram(rows.indices[inside], bins, shape))


def _histogram(genes: npt.NDArray[Any], bins: npt.NDArray[Any], shape: tuple[int, int]) -> sparse.csr_matrix:
    ones = np.ones(len(genes), np.int64)
    return sparse.coo_matrix((ones, (genes, bins.astype(np.int64))), shape=shape).tocsr()


def _locate(
    histogram: sparse.csr_matrix, ranks: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each of several ranks of each gene [n_ranks, n_genes]: its bin, and its rank inside that bin."""
    histogram.sort_indices()
    before = np.concatenate([[0], np.cumsum(histogram.data)])
    first = before[histogram.indptr[:-1]]
    # Where the running sum over the entries of a gene first exceeds the rank.
    entry = np.searchsorted(before[1:], first + ranks, side="right")
    has_values = np.diff(histogram.indptr) > 0
    entry = np.where(has_values, np.minimum(entry, max(histogram.nnz - 1, 0)), 0)
    bins = histogram.indices[entry] if histogram.nnz else np.zeros_like(entry)
    inside = first + ranks - before[entry]
    return np.where(has_values, bins, 0).astype(np.int64), np.where(has_values, inside, 0)


def _value(
    coarse: npt.NDArray[np.int64], fine: npt.NDArray[np.int64], at_middle: bool
) -> npt.NDArray[np.float64]:
    """The value a bin stands for: its middle, or its lower edge, where whole numbers lie."""
    bits = (coarse << _COARSE_SHIFT) + (fine << _FINE_SHIFT) + ((1 << (_FINE_SHIFT - 1)) if at_middle else 0)
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)
