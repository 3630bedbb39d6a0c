"""Cells with a predicted mean profile: control cells whose counts are thinned or topped up, gene by gene.

A prediction says where the mean goes; differential expression and cell-count contracts want cells that
scatter. Adding an effect to log values would lift every zero of a gene alike, which every rank test finds;
counts drawn again keep the scatter, the depth and the zeros of real cells.

Legend: C cells, G genes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from engine.perturbation.differential import mean_of
from engine.perturbation.normalise import DEPTH, log_normalised
from engine.perturbation.rank_sum import Array

_ROUNDS = 5
"""Of correcting the factors: the mean of logarithms is not linear in them."""
_SETTLING = 3
_FITTED_ON = 512
_MOST, _LEAST = 30.0, 1e-3
"""Bounds of a factor: beyond them a gene would be all of a cell, or is gone."""


class DrawnCells:
    """Draws cells from control cells of one context."""

    def __init__(self, control_CG: sparse.csr_matrix, depth: float = DEPTH) -> None:
        """control_CG: raw counts."""
        self._control_CG = control_CG.tocsr()
        # Factors need means, which so many cells give.
        step = max(1, control_CG.shape[0] // _FITTED_ON)
        self._fitted_CG = self._control_CG[::step]
        self._depth = depth
        self.mean_G = mean_of(log_normalised(self._control_CG, depth))

    def draw(self, mean_G: Array, n: int, rng: np.random.Generator) -> sparse.csr_matrix:
        """[n, G] integer counts whose log1p-normalised mean is `mean_G`, to about one count of a gene.

        Cells are drawn without repeats as far as there are enough. What chance leaves of the difference is
        settled gene by gene: single counts are taken from some cells, or given to some.
        """
        there = self._control_CG.shape[0]
        rows = np.concatenate([rng.permutation(there) for _ in range(-(-n // there))])[:n]
        cells_CG = _scaled(self._control_CG[rows], self._factors(mean_G, rng), rng)
        for _ in range(_SETTLING):
            cells_CG = _settled(cells_CG, np.maximum(mean_G, 0), self._depth, rng)
        return cells_CG

    def _factors(self, mean_G: Array, rng: np.random.Generator) -> Array:
        """[G] by which expected counts are multiplied."""
        log_factor_G = np.zeros_like(mean_G)
        counts_CG = self._fitted_CG
        # As far from the mean of these cells as is wanted from the mean of all.
        wanted_G = np.maximum(mean_G, 0) - self.mean_G + mean_of(log_normalised(counts_CG, self._depth))
        falls_G = mean_G < self.mean_G
        for _ in range(_ROUNDS):
            logs_CG = log_normalised(counts_CG, self._depth)
            reached_G = mean_of(logs_CG)
            slope_G = np.maximum(_slope(counts_CG, logs_CG, falls_G), 1e-3)
            step_G = np.clip((wanted_G - reached_G) / slope_G, -1, 1)
            log_factor_G = np.clip(log_factor_G + step_G, np.log(_LEAST), np.log(_MOST))
            counts_CG = _scaled(self._fitted_CG, np.exp(log_factor_G), rng)
        return np.asarray(np.exp(log_factor_G))


def _settled(
    cells_CG: sparse.csr_matrix, wanted_G: Array, depth: float, rng: np.random.Generator
) -> sparse.csr_matrix:
    """The cells with a gene taken out of some where its mean is too high, and put into some where too low."""
    logs_CG = log_normalised(cells_CG, depth)
    n, n_genes = cells_CG.shape
    over_G = np.asarray(logs_CG.sum(axis=0), dtype=np.float64).ravel() - wanted_G * n
    taken = _first_of_each(logs_CG, np.maximum(over_G, 0), rng)
    kept = cells_CG.copy()
    kept.data = np.where(taken, 0, kept.data).astype(np.float32)
    total_C = np.maximum(np.asarray(cells_CG.sum(axis=1)).ravel(), 1)
    one = float(np.log1p(depth / total_C).mean())
    given_G = np.rint(np.maximum(-over_G, 0) / one).astype(np.int64)
    genes = np.repeat(np.arange(n_genes), np.minimum(given_G, n))
    added = sparse.csr_matrix(
        (np.ones(len(genes), np.float32), (rng.integers(0, n, len(genes)), genes)), shape=(n, n_genes)
    )
    found: sparse.csr_matrix = (kept + added).tocsr()
    found.eliminate_zeros()
    return found


def _first_of_each(
    logs_CG: sparse.csr_matrix, most_G: Array, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Stored values, drawn at random within each gene, whose sum stays within `most_G`."""
    order = np.lexsort((rng.random(len(logs_CG.data)), logs_CG.indices))
    genes, values = logs_CG.indices[order], logs_CG.data[order].astype(np.float64)
    sums = np.cumsum(values)
    first = np.searchsorted(genes, np.arange(logs_CG.shape[1]))
    before_G = np.concatenate([[0.0], sums])[first]
    chosen = np.zeros(len(values), dtype=bool)
    chosen[order] = sums - before_G[genes] - values / 2 <= most_G[genes]
    chosen[order] &= most_G[genes] > 0
    return chosen


def _slope(counts_CG: sparse.csr_matrix, logs_CG: sparse.csr_matrix, falls_G: npt.NDArray[np.bool_]) -> Array:
    """[G] how mean logarithms grow with the logarithm of a gene's factor.

    A cell with several counts, or one that counts are added to, moves by 1; of cells with one count that is
    thinned out, as many as the factor says go to 0.
    """
    single = (counts_CG.data == 1) & falls_G[counts_CG.indices]
    moved = np.where(single, logs_CG.data, 1.0)
    return np.bincount(counts_CG.indices, moved, minlength=len(falls_G)) / counts_CG.shape[0]


def _scaled(counts_CG: sparse.csr_matrix, factor_G: Array, rng: np.random.Generator) -> sparse.csr_matrix:
    """Counts kept with probability `factor` where it is below 1, with Poisson counts added above."""
    factor = factor_G[counts_CG.indices]
    counts = counts_CG.data.astype(np.int64)
    kept = rng.binomial(counts, np.minimum(factor, 1.0))
    added = rng.poisson(counts * np.maximum(factor - 1.0, 0.0))
    found = sparse.csr_matrix(
        ((kept + added).astype(np.float32), counts_CG.indices, counts_CG.indptr), shape=counts_CG.shape
    )
    found = found.copy()
    found.eliminate_zeros()
    return found
