"""What annotation needs of the counts, in two passes over the store: how common each gene is, then the top
genes of each cell, normalised expression, and sums over clusters.

Legend: C cells, G genes, N clusters (of all fields, one after another).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import sparse

from storage.cells import CellStore
from storage.sources.spill import RowSpill

BLOCK_CELLS = 4096
PER = 1e4
# CellWhisperer's thinning of huge files: above so many stored values, those below the limit become zero.
THINNED = ((10_000_000_000, 0.5), (1_000_000_000, 0.1))

Float64 = npt.NDArray[np.float64]
Report = Callable[[int, int, str], None]


def blocks(store: CellStore, n_cells: int) -> Iterator[tuple[int, int]]:
    """Ranges of cells that cover the first `n_cells`, none across members of the store."""
    for start, stop in store.row_blocks(BLOCK_CELLS):
        if start < n_cells:
            yield start, min(stop, n_cells)


def gene_normalisers(store: CellStore, n_cells: int, report: Report | None = None) -> Float64:
    """Mean of log(count + 1) of each gene over all cells [G], zeros counted."""
    sums_G = np.zeros(store.n_genes)
    for start, stop in blocks(store, n_cells):
        rows = store.read(start, stop)
        sums_G += np.bincount(rows.indices, np.log1p(rows.counts, dtype=np.float64), minlength=store.n_genes)
        if report is not None:
            report(stop, n_cells, "cells counted")
    normalisers_G: Float64 = sums_G / n_cells
    return normalisers_G


def top_genes(counts: sparse.csr_matrix, normaliser_G: Float64, n_top: int) -> npt.NDArray[np.int32]:
    """The genes of each cell [C, n_top] with the highest count / exp(normaliser), best first.

    Of equal genes the one that comes first in the store is first; -1 where a cell has fewer genes.
    """
    ratio = counts.data / np.exp(normaliser_G)[counts.indices]
    top_CK = np.full((counts.shape[0], n_top), -1, np.int32)
    for cell, (start, stop) in enumerate(zip(counts.indptr[:-1], counts.indptr[1:], strict=True)):
        best = np.argsort(-ratio[start:stop], kind="stable")[:n_top]
        top_CK[cell, : len(best)] = counts.indices[start:stop][best]
    return top_CK


def normalised(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """log1p of counts per 10,000 of each cell, float32; a cell without counts stays empty."""
    totals_C = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    scale = np.repeat(PER / np.maximum(totals_C, 1e-12), np.diff(counts.indptr))
    logged = np.log1p(counts.data * scale).astype(np.float32)
    return sparse.csr_matrix((logged, counts.indices, counts.indptr), shape=counts.shape)


@dataclass
class ClusterSums:
    """Sums over the cells of each cluster: sum_NG and square_NG of normalised expression, cells_NG with a
    count, size_N cells.
    """

    sum_NG: Float64
    square_NG: Float64
    cells_NG: Float64
    size_N: Float64

    @classmethod
    def zeros(cls, n_clusters: int, n_genes: int) -> ClusterSums:
        shape = (n_clusters, n_genes)
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(n_clusters))

    def add(self, member_NC: sparse.csr_matrix, logged: sparse.csr_matrix) -> None:
        """One block of cells; member_NC: 1 where the cell is of the cluster."""
        self.sum_NG += _dense(member_NC @ logged)
        self.square_NG += _dense(member_NC @ logged.multiply(logged).tocsr())
        present = sparse.csr_matrix((np.ones_like(logged.data), logged.indices, logged.indptr), logged.shape)
        self.cells_NG += _dense(member_NC @ present)
        self.size_N += np.asarray(member_NC.sum(axis=1)).ravel()


def membership(number_FC: Sequence[npt.NDArray[np.int32]], sizes_F: Sequence[int]) -> sparse.csr_matrix:
    """Which cell is of which cluster [N, C], for several fields; -1 is of none."""
    n_cells = len(number_FC[0])
    rows, columns, first = [], [], 0
    for number_C, size in zip(number_FC, sizes_F, strict=True):
        known = np.flatnonzero(number_C >= 0)
        rows.append(number_C[known] + first)
        columns.append(known)
        first += size
    places = (np.concatenate(rows), np.concatenate(columns))
    return sparse.coo_matrix((np.ones(len(places[0])), places), shape=(first, n_cells)).tocsr()


@dataclass
class ExpressionPass:
    """The second pass. Hands `keep_top` the first cell of a block and its top genes [C, n_top], keeps
    normalised expression by gene in temporary files (12 bytes a value), and adds up clusters.
    """

    store: CellStore
    n_cells: int
    normaliser_G: Float64
    n_top: int
    keep_top: Callable[[int, npt.NDArray[np.int32]], None]
    number_FC: Sequence[npt.NDArray[np.int32]]
    sizes_F: Sequence[int]
    sums: ClusterSums = field(init=False)

    def run(self, report: Report | None = None) -> Iterator[sparse.csr_matrix]:
        """Normalised expression as blocks of consecutive genes [G of the block, C], when all is added up."""
        nnz = int(self.store.nnz_per_cell[: self.n_cells].sum(dtype=np.int64))
        least = next((limit for most, limit in THINNED if nnz > most), 0.0)
        self.sums = ClusterSums.zeros(sum(self.sizes_F), self.store.n_genes)
        spill = RowSpill((self.store.n_genes, self.n_cells), nnz, np.float32)
        try:
            for start, stop in blocks(self.store, self.n_cells):
                self._add(start, stop, spill, least)
                if report is not None:
                    report(stop, self.n_cells, "cells normalised")
            for _, genes in spill.blocks(0, self.store.n_genes):
                yield genes
        finally:
            spill.close()

    def _add(self, start: int, stop: int, spill: RowSpill, least: float) -> None:
        counts = self.store.read(start, stop).to_csr()
        self.keep_top(start, top_genes(counts, self.normaliser_G, self.n_top))
        logged = normalised(counts)
        self.sums.add(membership([number_C[start:stop] for number_C in self.number_FC], self.sizes_F), logged)
        cells = np.repeat(np.arange(start, stop), np.diff(logged.indptr))
        kept = logged.data >= least
        spill.add(logged.indices[kept].astype(np.int64), cells[kept], logged.data[kept])


def _dense(sums: sparse.csr_matrix) -> Float64:
    dense: Float64 = np.asarray(sums.todense(), np.float64)
    return dense
