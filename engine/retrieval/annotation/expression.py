"""What annotation needs of the counts: how common each gene is, the top genes of each cell, normalised
expression, and its sums over clusters.

Legend: C cells, G genes, N clusters (of all fields, one after another).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from storage.cells import CellStore

BLOCK_CELLS = 4096
PER = 1e4
# CellWhisperer's thinning of huge files: above so many stored values, those below the limit become zero.
THINNED = ((10_000_000_000, 0.5), (1_000_000_000, 0.1))

Float64 = npt.NDArray[np.float64]


def log_sums(store: CellStore, start: int, stop: int) -> Float64:
    """Sums of log(count + 1) of each gene over some cells [G], read block by block."""
    sums_G = np.zeros(store.n_genes)
    for first in range(start, stop, BLOCK_CELLS):
        rows = store.read(first, min(first + BLOCK_CELLS, stop))
        sums_G += np.bincount(rows.indices, np.log1p(rows.counts, dtype=np.float64), minlength=store.n_genes)
    return sums_G


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

    def add_genes(self, first: int, member_NC: sparse.csr_matrix, by_gene: sparse.csr_matrix) -> None:
        """Some genes [G of the block, C] of all cells; their sizes are set with them."""
        genes, member_CN = slice(first, first + by_gene.shape[0]), member_NC.T.tocsr()
        ones = np.ones_like(by_gene.data)
        present = sparse.csr_matrix((ones, by_gene.indices, by_gene.indptr), by_gene.shape)
        self.sum_NG[:, genes] = _dense(by_gene @ member_CN).T
        self.square_NG[:, genes] = _dense(by_gene.multiply(by_gene).tocsr() @ member_CN).T
        self.cells_NG[:, genes] = _dense(present @ member_CN).T
        self.size_N = np.asarray(member_NC.sum(axis=1), np.float64).ravel()


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


def thinned(by_gene: sparse.csr_matrix, nnz: int) -> sparse.csr_matrix:
    """Some genes of a file of `nnz` values, without its smallest values where the file would be huge."""
    least = next((limit for most, limit in THINNED if nnz > most), 0.0)
    if not least:
        return by_gene
    kept = by_gene.copy()
    kept.data[kept.data < least] = 0
    kept.eliminate_zeros()
    return kept


def _dense(sums: sparse.csr_matrix) -> Float64:
    dense: Float64 = np.asarray(sums.todense(), np.float64)
    return dense
