"""Association statistics over counts: Fisher's exact test, false discovery rate, rank tests from histograms.

Shape legend: F features, L labels, K occupied (feature, label, level) keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from engine.interpret.runs import CountRun, Float64, Int64, segments


def odds_ratio(in_hits: Int64, in_total: Int64, out_hits: Int64, out_total: Int64) -> Float64:
    """Sample odds ratio of a 2x2 table, as `scipy.stats.fisher_exact` gives it.

    Infinite when no one outside was hit (or everyone inside was), NaN when a margin is empty and nothing can
    be said.
    """
    a, b = in_hits.astype(np.float64), (in_total - in_hits).astype(np.float64)
    c, d = out_hits.astype(np.float64), (out_total - out_hits).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (a * d) / (b * c)
    empty_margin = (a + b == 0) | (c + d == 0) | (a + c == 0) | (b + d == 0)
    return np.where(empty_margin, np.nan, ratio)


def fisher_greater(in_hits: Int64, in_total: Int64, out_hits: Int64, out_total: Int64) -> Float64:
    """One-sided Fisher p: probability of at least `in_hits` hits inside by chance (hypergeometric upper
    tail)."""
    # Half a second to import, and workers of the pass do without it.
    from scipy import stats

    p = stats.hypergeom.sf(in_hits - 1, in_total + out_total, in_hits + out_hits, in_total)
    return np.clip(np.where(in_hits == 0, 1.0, p), 0.0, 1.0)


def benjamini_hochberg(p: Float64, count: Int64 | None = None) -> Float64:
    """False discovery rate of each p value (Benjamini and Hochberg 1995), over all of them, whatever their
    shape.

    count: how many tests have each p value (same shape; default one). Millions of tests with few distinct
    p values are corrected through their counts, and counts of shards add up exactly.
    """
    flat = p.ravel()
    if flat.size == 0:
        return p.astype(np.float64)
    order = np.argsort(flat, kind="stable")
    tests = np.ones(flat.size, np.int64) if count is None else count.ravel()
    rank = np.cumsum(tests[order])
    # What no test has takes the rate of the tests above it.
    scaled = np.full(flat.size, np.inf)
    np.divide(flat[order] * float(rank[-1]), rank, out=scaled, where=tests[order] > 0)
    adjusted = np.minimum.accumulate(scaled[::-1])[::-1]
    q = np.empty(flat.size)
    q[order] = np.minimum(adjusted, 1.0)
    return q.reshape(p.shape)


def benjamini_yekutieli(q: Float64, tests: int) -> Float64:
    """False discovery rates that hold whatever the dependence between `tests` tests (Benjamini and Yekutieli
    2001), from those of `benjamini_hochberg`."""
    harmonic = special.digamma(tests + 1) + np.euler_gamma
    return np.minimum(q * harmonic, 1.0)


@dataclass(frozen=True)
class RankTest:
    """Does a feature rank the cells of a label above the others? Arrays [F, L].

    `hits_FL` counts firing cells; `auroc_FL` is the probability that a cell of the label has the higher
    activation (ties count one half), NaN where one side has no cell; `p_FL` the one-sided Mann-Whitney p by
    the tie-corrected normal approximation.
    """

    hits_FL: Int64
    auroc_FL: Float64
    p_FL: Float64


def rank_test(levels: CountRun, first: int, stop: int, label_cells_L: Int64, n_levels: int) -> RankTest:
    """Rank statistics of features [first, stop) from the histogram of activation levels.

    A cell in which the feature never fires has no key and takes the lowest rank, shared by all such cells.
    """
    n_labels, n_cells, n_features = label_cells_L.size, int(label_cells_L.sum()), stop - first
    width = n_labels * n_levels
    begin, end = np.searchsorted(levels.key_K, [first * width, stop * width])
    key_K, cells_K = levels.key_K[begin:end] - first * width, levels.count_K[begin:end]
    pair_K, level_K = np.divmod(key_K, n_levels)
    feature_K = pair_K // n_labels

    hits_FL = np.zeros((n_features, n_labels), np.int64)
    np.add.at(hits_FL.ravel(), pair_K, cells_K)
    silent_F = n_cells - hits_FL.sum(axis=1)
    rank_K, tie_cubes_F = _mid_ranks(feature_K, level_K, cells_K, silent_F, n_levels)
    rank_sum_FL = np.bincount(pair_K, weights=cells_K * rank_K, minlength=hits_FL.size).reshape(hits_FL.shape)
    rank_sum_FL += (label_cells_L - hits_FL) * ((silent_F[:, None] + 1) / 2)

    inside_L = label_cells_L.astype(np.float64)
    outside_L = n_cells - inside_L
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc_FL = (rank_sum_FL - inside_L * (inside_L + 1) / 2) / (inside_L * outside_L)
        tie_share_F = tie_cubes_F / (n_cells * (n_cells - 1.0)) if n_cells > 1 else np.zeros(n_features)
        spread_FL = np.sqrt((n_cells + 1 - tie_share_F)[:, None] / (12 * inside_L * outside_L))
        z_FL = np.where(spread_FL > 0, (auroc_FL - 0.5) / spread_FL, 0.0)
    return RankTest(hits_FL, auroc_FL, special.ndtr(-z_FL))


def _mid_ranks(
    feature_K: Int64, level_K: Int64, cells_K: Int64, silent_F: Int64, n_levels: int
) -> tuple[Float64, Float64]:
    """Mean rank of the cells behind each key, and per feature the sum of t^3 - t over its ties of t cells."""
    silent = silent_F.astype(np.float64)
    tie_cubes_F = silent**3 - silent
    if feature_K.size == 0:
        return np.empty(0), tie_cubes_F
    slot_K = feature_K * n_levels + level_K
    order = np.argsort(slot_K, kind="stable")
    starts = segments(slot_K[order])
    tied = np.add.reduceat(cells_K[order], starts)
    feature_of_slot = feature_K[order][starts]
    before = np.cumsum(tied) - tied
    first_of_feature = segments(feature_of_slot)
    lengths = np.diff(np.append(first_of_feature, feature_of_slot.size))
    before -= np.repeat(before[first_of_feature], lengths)
    middle = silent[feature_of_slot] + before + (tied + 1) / 2
    rank_K = np.empty(slot_K.size)
    rank_K[order] = np.repeat(middle, np.diff(np.append(starts, slot_K.size)))
    np.add.at(tie_cubes_F, feature_of_slot, tied.astype(np.float64) ** 3 - tied)
    return rank_K, tie_cubes_F
