"""Differential expression of one perturbation against control cells, in the two conventions scored today.

Legend: C cells, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from engine.perturbation.normalise import per_million
from engine.perturbation.rank_sum import Array, RankSum, adjusted

SIGNIFICANT = 0.05
"""Adjusted p-value below which a gene counts as differentially expressed in every metric here."""


@dataclass(frozen=True)
class Differential:
    """One perturbation against control cells, over the tested genes."""

    genes: npt.NDArray[np.int64]
    """[T] numbers of the tested genes, ascending."""
    p: Array
    """[T] two-sided."""
    fdr: Array
    """[T] Benjamini-Hochberg over the tested genes of this perturbation."""
    log2_fold_change: Array
    """[T]; infinite where only one side expresses a gene and the convention adds nothing."""

    @property
    def significant(self) -> npt.NDArray[np.bool_]:
        return self.fdr < SIGNIFICANT

    def without(self, genes: npt.NDArray[np.int64]) -> Differential:
        """The same without some genes; p-values stay adjusted over all that were tested."""
        keep = ~np.isin(self.genes, genes)
        return Differential(self.genes[keep], self.p[keep], self.fdr[keep], self.log2_fold_change[keep])


class LogTests:
    """pdex as cell-eval 0.8 calls it: ranks of log1p values, fold changes of geometric means, nothing
    added.
    """

    def __init__(self, control_CG: sparse.csr_matrix) -> None:
        self._ranks = RankSum(control_CG)
        self._mean_G = np.expm1(mean_of(control_CG))

    def test(self, group_CG: sparse.csr_matrix) -> Differential:
        """group_CG: log1p-normalised cells of one perturbation."""
        _, p = self._ranks.test(group_CG)
        with np.errstate(divide="ignore", invalid="ignore"):
            change = np.log2(np.expm1(mean_of(group_CG)) / self._mean_G)
        change[np.isnan(change)] = 0.0  # 0/0: unexpressed on both sides
        return Differential(np.arange(len(p)), p, adjusted(p), change)


class CountTests:
    """vcc2026: counts per million of each cell, genes above 5 in the control, arithmetic means."""

    LEAST_CPM = 5.0
    ADDED = 1e-9
    """To both means of a ratio."""

    def __init__(self, control_CG: sparse.csr_matrix) -> None:
        million_CG = per_million(control_CG)
        mean_G = mean_of(million_CG)
        self._genes = np.flatnonzero(mean_G > self.LEAST_CPM)
        self._ranks = RankSum(million_CG[:, self._genes].log1p().astype(np.float32))
        self._mean_T = mean_G[self._genes]

    def test(self, group_CG: sparse.csr_matrix) -> Differential:
        """group_CG: raw counts of the cells of one perturbation."""
        million_CT = per_million(group_CG)[:, self._genes]
        _, p = self._ranks.test(million_CT.log1p().astype(np.float32))
        change = np.log2((mean_of(million_CT) + self.ADDED) / (self._mean_T + self.ADDED))
        return Differential(self._genes, p, adjusted(p), change)


def mean_of(matrix_CG: sparse.csr_matrix) -> Array:
    """[G] in float64."""
    return np.asarray(matrix_CG.mean(axis=0, dtype=np.float64)).ravel()
