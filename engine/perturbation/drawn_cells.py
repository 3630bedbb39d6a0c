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

_ROUNDS = 8
"""Of correcting the factors: the mean of logarithms is not linear in them."""
_MOST, _LEAST = 30.0, 1e-3
"""Bounds of a factor: beyond them a gene would be all of a cell, or is gone."""


class DrawnCells:
    """Draws cells from control cells of one context."""

    def __init__(self, control_CG: sparse.csr_matrix, depth: float = DEPTH) -> None:
        """control_CG: raw counts."""
        self._control_CG = control_CG.tocsr()
        self._depth = depth
        self.mean_G = mean_of(log_normalised(self._control_CG, depth))

    def draw(self, mean_G: Array, n: int, rng: np.random.Generator) -> sparse.csr_matrix:
        """[n, G] integer counts whose log1p-normalised mean is near `mean_G`, as far as counts can be.

        A gene that no control cell expresses stays absent.
        """
        factor_G = self._factors(mean_G, rng)
        rows = rng.integers(0, self._control_CG.shape[0], n)
        return _scaled(self._control_CG[rows], factor_G, rng)

    def _factors(self, mean_G: Array, rng: np.random.Generator) -> Array:
        """[G] by which expected counts are multiplied; found on all control cells."""
        wanted_G = np.maximum(mean_G, 0)
        log_factor_G = np.zeros_like(wanted_G)
        counts_CG = self._control_CG
        falls_G = wanted_G < self.mean_G
        for _ in range(_ROUNDS):
            logs_CG = log_normalised(counts_CG, self._depth)
            reached_G = mean_of(logs_CG)
            slope_G = np.maximum(_slope(counts_CG, logs_CG, falls_G), 1e-3)
            step_G = np.clip((wanted_G - reached_G) / slope_G, -1, 1)
            log_factor_G = np.clip(log_factor_G + step_G, np.log(_LEAST), np.log(_MOST))
            counts_CG = _scaled(self._control_CG, np.exp(log_factor_G), rng)
        return np.asarray(np.exp(log_factor_G))


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
