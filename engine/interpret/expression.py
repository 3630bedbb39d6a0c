"""How strongly a gene is expressed in a cell: log(1 + counts per ten thousand), from the cell store.

Shape legend: T tokens, G token ids of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.interpret.runs import Float32, segments
from storage.cells import CellStore
from storage.genes import without_version

PER_CELL = 1e4
"""The counts of a cell are scaled to this sum, over all its genes, before the logarithm: scanpy's default."""
CELLS_AT_ONCE = 4096


@dataclass(frozen=True)
class Expression:
    """Looks expression up by cell row and token id. `token_of_column`: token id of each gene of the store,
    -1 where the vocabulary does not have it; columns that share a token are added.
    """

    store: CellStore
    token_of_column: npt.NDArray[np.int32]
    n_genes: int

    @classmethod
    def by_gene_id(cls, store: CellStore, gene_id_G: Sequence[str]) -> Expression:
        """Genes of the store matched to the vocabulary by id, with or without a version suffix."""
        token = {without_version(gene_id): number for number, gene_id in enumerate(gene_id_G)}
        token |= {gene_id: number for number, gene_id in enumerate(gene_id_G)}
        columns = [token.get(gene, token.get(without_version(gene), -1)) for gene in store.genes.index]
        return cls(store, np.asarray(columns, dtype=np.int32), len(gene_id_G))

    def __call__(self, cell_T: npt.NDArray[Any], gene_T: npt.NDArray[Any]) -> Float32:
        """Expression of each token's gene in its cell; 0 where the cell has no count of it."""
        value_T = np.zeros(len(cell_T), np.float32)
        if not len(cell_T):
            return value_T
        first, last = int(cell_T.min()), int(cell_T.max())
        for start in range(first, last + 1, CELLS_AT_ONCE):
            stop = min(start + CELLS_AT_ONCE, last + 1)
            rows = np.flatnonzero((cell_T >= start) & (cell_T < stop))
            key_T = (cell_T[rows].astype(np.int64) - start) * self.n_genes + gene_T[rows]
            value_T[rows] = self._of_block(start, stop, key_T)
        return value_T

    def _of_block(self, start: int, stop: int, key_T: npt.NDArray[np.int64]) -> Float32:
        """`key_T`: (cell - start) * n_genes + token id."""
        block = self.store.read(start, stop)
        cell_N = np.repeat(np.arange(block.n_rows), np.diff(block.indptr))
        total_C = np.bincount(cell_N, weights=block.counts, minlength=block.n_rows)
        token_N = self.token_of_column[block.indices]
        known = np.flatnonzero(token_N >= 0)
        if not known.size:
            return np.zeros(len(key_T), np.float32)
        key_N = cell_N[known] * self.n_genes + token_N[known]
        order = np.argsort(key_N, kind="stable")
        key_N = key_N[order]
        starts = segments(key_N)
        key_N = key_N[starts]
        counts_N = np.add.reduceat(block.counts[known][order].astype(np.float64), starts)
        scaled_N = np.log1p(counts_N * PER_CELL / total_C[key_N // self.n_genes]).astype(np.float32)
        place_T = np.minimum(np.searchsorted(key_N, key_T), key_N.size - 1)
        return np.where(key_N[place_T] == key_T, scaled_N[place_T], np.float32(0))
