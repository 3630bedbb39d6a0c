"""The six metrics of the Virtual Cell Challenge 2026 (cell-eval2 0.20, preset vcc2026), on raw counts.

Effects of both sides are taken from the real control. Source: pypi.org/project/cell-eval2 0.20.0, whose
tables are the goldens of the tests.

Legend: P perturbations, G genes, C cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from engine.perturbation.differential import Differential
from engine.perturbation.normalise import bulk_log
from engine.perturbation.rank_sum import Array
from storage.errors import InputError

METRICS = (
    "pds_cosine",
    "expr_mse_unbiased_capped_norm",
    "direction_fidelity_yield",
    "direction_reach",
    "sig_jaccard",
    "lfc_nmae",
)
BEST_IS_ZERO = frozenset({"expr_mse_unbiased_capped_norm", "lfc_nmae"})
DEPTH = 5e4
PURITY = 0.9
"""Share of right directions that a prefix of `direction_reach` must keep."""
LEAST_GENES = 10
"""Significant genes below which `lfc_nmae` says nothing."""
# Lowest scaled score of an unbounded error, by the challenge's rules.
LEAST_SCALED = {"expr_mse_unbiased_capped_norm": (0.0, 1.0), "lfc_nmae": (-6.0, np.inf)}
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Profile:
    """A group of cells as one profile."""

    bulk_G: Array
    """log1p of the summed counts scaled to 50,000."""
    noise: float
    """Sampling variance of the profile, summed over genes: the delete-one-cell jackknife."""

    @classmethod
    def of(cls, counts_CG: sparse.csr_matrix) -> Profile:
        sum_G = np.asarray(counts_CG.sum(axis=0), dtype=np.float64).ravel()
        return cls(bulk_log(sum_G, DEPTH), _jackknife(counts_CG, sum_G))


def discrimination(
    real_delta_PG: Array, predicted_delta_PG: Array, targets: Sequence[npt.NDArray[np.int64]]
) -> Array:
    """[P] `pds_cosine`: 1 - rank / (P - 1) with all target genes of the panel removed; ties share ranks."""
    kept = np.delete(np.arange(real_delta_PG.shape[1]), np.unique(np.concatenate(targets)))
    real, predicted = real_delta_PG[:, kept], predicted_delta_PG[:, kept]
    size = np.linalg.norm(predicted, axis=1)[:, None] * np.linalg.norm(real, axis=1)[None, :]
    away = 1 - np.divide(predicted @ real.T, size, out=np.zeros_like(size), where=size > 0)
    own = np.diag(away)[:, None]
    rank = (away < own).sum(axis=1) + ((away == own).sum(axis=1) - 1) / 2
    return np.asarray(1 - rank / max(len(real) - 1, 1))


def squared_errors(
    real: Sequence[Profile],
    predicted: Sequence[Profile],
    control: Profile,
    targets: Sequence[npt.NDArray[np.int64]],
) -> tuple[Array, Array]:
    """([P] error, [P] effect) without sampling variance, a gene; their sums' ratio is the metric.

    The variance a prediction may claim is capped by the real one's, and all claims together by how far
    predictions differ from one another: cells that cancel out in the profile are no sample of a population.
    """
    bulk_PG = np.stack([profile.bulk_G for profile in predicted])
    weights_P = np.array([1.0 / (bulk_PG.shape[1] - len(genes)) for genes in targets])
    claims_P = np.minimum([one.noise for one in predicted], [one.noise for one in real])
    if (claims_P * weights_P).sum() > 0:
        budget = _spread(bulk_PG, targets, weights_P)
        claims_P = claims_P * min(1.0, budget / float((claims_P * weights_P).sum()))
    error_P, effect_P = np.empty(len(real)), np.empty(len(real))
    for number, (truth, genes) in enumerate(zip(real, targets, strict=True)):
        off_G, delta_G = bulk_PG[number] - truth.bulk_G, truth.bulk_G - control.bulk_G
        error = (off_G**2).sum() - claims_P[number] - truth.noise - (off_G[genes] ** 2).sum()
        effect = (delta_G**2).sum() - truth.noise - control.noise - (delta_G[genes] ** 2).sum()
        error_P[number], effect_P[number] = error * weights_P[number], effect * weights_P[number]
    return error_P, effect_P


def normalised_error(error_P: Array, effect_P: Array) -> float:
    """`expr_mse_unbiased_capped_norm`. Raises InputError when the real effects are smaller than their
    noise.
    """
    if effect_P.sum() <= 0:
        raise InputError(
            "expr_mse_unbiased_capped_norm: the real effects are no larger than their sampling noise "
            f"(sum {effect_P.sum():.3g}); there are too few cells a perturbation to score this."
        )
    return float(error_P.sum() / effect_P.sum())


def differential_metrics(
    real: Differential, predicted: Differential, targets: npt.NDArray[np.int64]
) -> dict[str, float]:
    """The four of one perturbation that compare differential expression; both sides test the same genes."""
    real, predicted = real.without(targets), predicted.without(targets)
    expected, called = real.significant, predicted.significant
    direction = np.sign(real.log2_fold_change)
    right = (direction != 0) & (np.sign(predicted.log2_fold_change) == direction)
    scored = called & (direction != 0)
    largest = max(int(scored.sum()), int(expected.sum()))
    union = int((expected | called).sum())
    return {
        "direction_fidelity_yield": float((scored & right).sum() / largest) if largest else float("nan"),
        "direction_reach": _reach(real, predicted, right, direction != 0),
        "sig_jaccard": float((expected & called).sum() / union) if union else 1.0,
        "lfc_nmae": _relative_error(real, predicted),
    }


def scaled(name: str, value: float, baseline: float, ceiling: float) -> float:
    """0 at the mean response, 1 at a split-half replicate; bounded where the challenge says so."""
    if ceiling == baseline or not np.isfinite([value, baseline, ceiling]).all():
        return float("nan")
    low, high = LEAST_SCALED.get(name, (-np.inf, np.inf))
    return float(np.clip((value - baseline) / (ceiling - baseline), low, high))


def _reach(real: Differential, predicted: Differential, right: np.ndarray, directed: np.ndarray) -> float:
    """Deepest prefix of the real significant genes, most confident prediction first, with pure signs."""
    n_real = int(real.significant.sum())
    if n_real == 0:
        return float("nan")
    rows = np.flatnonzero(real.significant)
    size = -np.abs(predicted.log2_fold_change[rows])
    order = rows[
        np.lexsort((rows, size, predicted.p[rows], predicted.fdr[rows], ~predicted.significant[rows]))
    ]
    counted = np.cumsum(directed[order])
    pure = np.cumsum(right[order]) >= PURITY * counted
    return float(counted[pure & (counted > 0)].max(initial=0) / n_real)


def _relative_error(real: Differential, predicted: Differential) -> float:
    chosen = real.significant & np.isfinite(real.log2_fold_change)
    change, other = real.log2_fold_change[chosen], predicted.log2_fold_change[chosen]
    if len(change) < LEAST_GENES or not np.abs(change).sum():
        return float("nan")
    other = np.where(np.isfinite(other), other, 0.0)
    return float(np.abs(other - change).mean() / np.abs(change).mean())


def _jackknife(counts_CG: sparse.csr_matrix, sum_G: Array) -> float:
    n, total = counts_CG.shape[0], float(sum_G.sum())
    if n < 2 or total <= 0:
        return 0.0
    whole_G = bulk_log(sum_G, DEPTH)
    first_G, second_G = np.zeros_like(sum_G), np.zeros_like(sum_G)
    for start in range(0, n, _ROWS_AT_ONCE):
        rows = counts_CG[start : start + _ROWS_AT_ONCE].toarray().astype(np.float64)
        left = total - rows.sum(axis=1)
        # Differences from the whole, so that the two sums do not cancel.
        scale = DEPTH / np.where(left > 0, left, 1.0)
        away = np.where((left > 0)[:, None], np.log1p((sum_G - rows) * scale[:, None]), 0.0) - whole_G
        first_G += away.sum(axis=0)
        second_G += (away**2).sum(axis=0)
    return max((n - 1) / n * float((second_G - first_G**2 / n).sum()), 0.0)


def _spread(bulk_PG: Array, targets: Sequence[npt.NDArray[np.int64]], weights_P: Array) -> float:
    """Weighted sum of squares of predictions around their mean; a target gene does not count its own."""
    counted_PG = np.broadcast_to(weights_P[:, None], bulk_PG.shape).copy()
    for number, genes in enumerate(targets):
        counted_PG[number, genes] = 0.0
    away_PG = bulk_PG - bulk_PG.mean(axis=0)
    enough = (counted_PG > 0).sum(axis=0) >= 2
    total_G = counted_PG.sum(axis=0)[enough]
    first = (counted_PG * away_PG).sum(axis=0)[enough]
    second = (counted_PG * away_PG**2).sum(axis=0)[enough]
    return float(np.maximum(second - first**2 / total_G, 0.0).sum())
