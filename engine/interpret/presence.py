"""Genes of the cells a feature fires in: how its strength in a cell goes with a gene being expressed there.

Scores over tokens say on which genes a feature fires. Many features fire on whatever a kind of cell
expresses, strongest on genes that are everywhere; what tells their cells from others shows only across cells.
So: the partial correlation, over a sample of cells, of a feature's strongest activation in a cell (0 where it
is silent) with whether the cell has a count of the gene, given the logarithm of how many genes it has. A cell
with more genes has a larger maximum and more of everything. Presence, not expression: genes that every cell
expresses a little more or less of, ribosomal ones above all, would come first.

Shape legend: C cells, S sampled cells, F features worked on together, G token ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from engine.interpret.expression import CELLS_AT_ONCE, Expression
from engine.interpret.runs import Float64, Int64
from engine.interpret.state import FeatureTotals, PassPlan
from engine.streaming.draws import token_draws

SAMPLED_CELLS = 4096
"""A correlation over so many cells is known to 0.016; 8,192 features in them take at most 400 MB."""
FEATURES_AT_ONCE = 256
_STREAM = 3
"""Draws of `token_draws` that nothing else uses."""
_LEAST_SPREAD = 1e-9
"""Relative to the sum of squares: below it a column is constant, given the depth, but for rounding."""


def share_for(n_cells: int) -> float:
    """Share of the cells that is sampled."""
    return min(1.0, SAMPLED_CELLS / max(n_cells, 1))


def is_sampled(plan: PassPlan, cell_C: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Whether cells, by their rows in the store, are in the sample: the same in every member of a pass."""
    draws_C = token_draws(plan.seed, cell_C, np.zeros(len(cell_C), np.int64), stream=_STREAM)
    sampled_C: npt.NDArray[np.bool_] = draws_C <= np.uint64(plan.cell_share * (2.0**64 - 2048))
    return sampled_C


@dataclass(frozen=True)
class Presence:
    """The genes of the sampled cells. cell_S: their rows, ascending. depth_S: log number of genes, without
    its mean, of length one. present_GS: 1 where a cell has a count. spread_G: length of a gene's row without
    its mean and what depth explains; 0 for genes in all cells or none."""

    cell_S: Int64
    depth_S: Float64
    present_GS: sparse.csr_matrix
    spread_G: Float64

    @classmethod
    def read(cls, expression: Expression, plan: PassPlan, n_cells: int) -> Presence:
        """Of the sampled ones among the first `n_cells` cells of the store."""
        parts, cells = [], []
        for start in range(0, n_cells, CELLS_AT_ONCE):
            rows = np.arange(start, min(start + CELLS_AT_ONCE, n_cells))
            rows = rows[is_sampled(plan, rows)]
            if not len(rows):
                continue
            counts = expression.store.read_ranges([(int(row), int(row) + 1) for row in rows])
            token_N = expression.token_of_column[counts.indices]
            cell_N = np.repeat(np.arange(len(rows)), np.diff(counts.indptr))
            known = (token_N >= 0) & (counts.counts > 0)
            ones = np.ones(int(known.sum()), np.float32)
            shape = (len(rows), expression.n_genes)
            parts.append(sparse.csr_matrix((ones, (cell_N[known], token_N[known])), shape=shape))
            cells.append(rows)
        present_SG = (
            sparse.vstack(parts, format="csr") if parts else sparse.csr_matrix((0, expression.n_genes))
        )
        # Columns of the store that are one gene to the vocabulary were added.
        present_SG.data[:] = 1.0
        return cls.of(np.concatenate([np.empty(0, np.int64), *cells]), present_SG)

    @classmethod
    def of(cls, cell_S: Int64, present_SG: sparse.csr_matrix) -> Presence:
        depth_S = np.log1p(np.diff(present_SG.indptr).astype(np.float64))
        depth_S -= depth_S.mean() if len(depth_S) else 0.0
        depth_S /= max(float(np.sqrt((depth_S**2).sum())), _LEAST_SPREAD)
        present_GS = present_SG.astype(np.float64).T.tocsr()
        cells_G = np.diff(present_GS.indptr).astype(np.float64)
        left_G = cells_G - cells_G**2 / max(len(cell_S), 1) - (present_GS @ depth_S) ** 2
        spread_G = np.sqrt(np.where(left_G > _LEAST_SPREAD * cells_G, left_G, 0.0))
        return cls(cell_S, depth_S, present_GS, spread_G)

    def scores(self, features: FeatureTotals) -> Iterator[tuple[Int64, Float64]]:
        """(feature numbers `[F]`, partial correlations `[F, G]`) of some features at a time, those that fired
        in a sampled cell; 0 where either side does not vary."""
        peaks = features.peaks
        alive = np.unique(peaks.feature_S).astype(np.int64)
        place_S = np.searchsorted(self.cell_S, peaks.cell_S)
        for start in range(0, len(alive), FEATURES_AT_ONCE):
            feature_F = alive[start : start + FEATURES_AT_ONCE]
            first, stop = np.searchsorted(peaks.feature_S, [feature_F[0], feature_F[-1] + 1])
            a_FS = np.zeros((len(feature_F), len(self.cell_S)))
            row = np.searchsorted(feature_F, peaks.feature_S[first:stop])
            a_FS[row, place_S[first:stop]] = peaks.peak_S[first:stop]
            squares_F = (a_FS**2).sum(axis=1)
            a_FS -= a_FS.mean(axis=1, keepdims=True)
            # Not by BLAS, whose sums depend on how many features are worked on together.
            a_FS -= np.einsum("fs,s->f", a_FS, self.depth_S)[:, None] * self.depth_S
            left_F = (a_FS**2).sum(axis=1)
            spread_F = np.sqrt(np.where(left_F > _LEAST_SPREAD * squares_F, left_F, 0.0))
            # What is left of the activations has no mean and no depth in it, so the genes may keep theirs.
            product_FG = (self.present_GS @ a_FS.T).T
            spread_FG = spread_F[:, None] * self.spread_G
            yield (
                feature_F,
                np.divide(product_FG, spread_FG, out=np.zeros_like(product_FG), where=spread_FG > 0),
            )
