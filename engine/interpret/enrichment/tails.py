"""Exact one-sided Fisher tests as a table: p depends on list size, term size and overlap only.

Shape legend: F lists, T terms, U distinct list sizes, V distinct term sizes, E entries: one for every
(list size, term size, overlap) that can occur.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.interpret.runs import Float64, Int64


@dataclass(frozen=True)
class TailTable:
    """P(X >= k) of the hypergeometric distribution for lists of n genes and terms of K out of a population.

    Entries of one (n, K) stand together, k = 0 first: entry = start_UV[u, v] + k.
    """

    population: int
    n_U: Int64
    K_V: Int64
    start_UV: Int64
    p_E: Float64

    @classmethod
    def of(cls, list_sizes: Int64, term_sizes: Int64, population: int) -> TailTable:
        """For all list sizes (any order, repeated) x all term sizes. Raises ValueError for a size above the
        population."""
        n_U, K_V = np.unique(list_sizes).astype(np.int64), np.unique(term_sizes).astype(np.int64)
        for sizes in (n_U, K_V):
            if sizes.size and not 0 <= sizes[0] <= sizes[-1] <= population:
                raise ValueError(f"sizes {sizes[0]} to {sizes[-1]} in a population of {population}")
        lengths_UV = np.minimum(n_U[:, None], K_V[None, :]) + 1
        ends = np.cumsum(lengths_UV.ravel())
        start_UV = (ends - lengths_UV.ravel()).reshape(lengths_UV.shape)
        p_E = np.concatenate([_tails(int(n), K_V, population) for n in n_U]) if n_U.size else np.empty(0)
        return cls(population, n_U, K_V, start_UV, p_E)

    def classes(self, list_sizes: Int64, term_sizes: Int64) -> tuple[Int64, Int64]:
        """(place of each list's size in n_U, place of each term's size in K_V)."""
        return np.searchsorted(self.n_U, list_sizes), np.searchsorted(self.K_V, term_sizes)

    @cached_property
    def overlaps(self) -> Int64:
        """k of each entry."""
        starts = self.start_UV.ravel()
        return np.arange(self.p_E.size) - np.repeat(starts, np.diff(np.append(starts, self.p_E.size)))

    @cached_property
    def order(self) -> Int64:
        """Entries by ascending p."""
        return np.argsort(self.p_E, kind="stable")

    @cached_property
    def ranks(self) -> Int64:
        """Place of each entry in `order`."""
        rank_E = np.empty(self.p_E.size, np.int64)
        rank_E[self.order] = np.arange(self.p_E.size)
        return rank_E


def _tails(n: int, K_V: Int64, population: int) -> Float64:
    """Upper tails for one list size: those of K_V[0] for k = 0..min(n, K), then those of K_V[1], ...

    The probability at the mode is exact to a few units in the last place (Boost); its neighbours follow by
    the ratio of successive terms, so nothing underflows before the probability itself does.
    """
    from scipy import stats

    K_V1 = K_V[:, None].astype(np.float64)
    top = min(n, int(K_V.max(initial=0)))
    mode_V = np.minimum((n + 1) * (K_V + 1) // (population + 2), np.minimum(n, K_V))
    k_K = np.arange(top, dtype=np.float64)[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        # p(k + 1) / p(k)
        ratio_VK = (K_V1 - k_K) * (n - k_K) / ((k_K + 1) * (population - K_V1 - n + k_K + 1))
    highest_V, lowest_V = np.minimum(n, K_V), np.maximum(n + K_V - population, 0)
    probability_VK = np.zeros((K_V.size, top + 1))
    probability_VK[np.arange(K_V.size), mode_V] = stats.hypergeom.pmf(mode_V, population, K_V, n)
    for k in range(top):
        rows = np.flatnonzero((mode_V <= k) & (k < highest_V))
        probability_VK[rows, k + 1] = probability_VK[rows, k] * ratio_VK[rows, k]
    for k in range(top, 0, -1):
        rows = np.flatnonzero((lowest_V < k) & (k <= mode_V))
        probability_VK[rows, k - 1] = probability_VK[rows, k] / ratio_VK[rows, k - 1]
    tail_VK = np.cumsum(probability_VK[:, ::-1], axis=1)[:, ::-1]
    overlap_K = np.arange(top + 1)[None, :]
    # An overlap that no list can stay below is certain, whatever rounding says.
    tail_VK = np.where(overlap_K <= lowest_V[:, None], 1.0, np.minimum(tail_VK, 1.0))
    return tail_VK[overlap_K <= highest_V[:, None]]
