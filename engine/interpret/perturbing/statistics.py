"""Which perturbations move cells, and where to: pairs of cell and perturbation to one row a perturbation.

Legend: N pairs, P perturbations.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import special
from scipy.stats import rankdata

from engine.interpret.runs import Float64, Int64
from engine.interpret.statistics import benjamini_hochberg

NORMAL_975 = 1.959964
"""97.5% quantile of the standard normal distribution."""


def perturbation_table(pairs: pd.DataFrame, n_perturbations: int, metrics: tuple[str, ...]) -> pd.DataFrame:
    """One row a perturbation: cells it concerned and, for each metric, mean and 95% interval over cells
    (normal), and whether it differs from the pairs of all other perturbations (`rank_test`): `p_M`,
    two-sided, and `fdr_M` over the perturbations.

    pairs: rows (perturbation, cell) with a column for each metric.
    """
    number_N = pairs["perturbation"].to_numpy(np.int64)
    count_P = np.bincount(number_N, minlength=n_perturbations)
    columns: dict[str, Float64 | Int64] = {
        "perturbation": np.arange(n_perturbations, dtype=np.int64),
        "n_cells": count_P,
    }
    for metric in metrics:
        value_N = pairs[metric].to_numpy(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean_P = np.bincount(number_N, value_N, n_perturbations) / count_P
            square_P = np.bincount(number_N, (value_N - mean_P[number_N]) ** 2, n_perturbations)
            error_P = np.sqrt(square_P / np.where(count_P > 1, count_P - 1, np.nan) / count_P)
        p_P = rank_test(value_N, number_N, n_perturbations)
        fdr_P = np.full(n_perturbations, np.nan)
        tested = np.isfinite(p_P)
        fdr_P[tested] = benjamini_hochberg(p_P[tested])
        columns |= {
            metric: mean_P,
            f"low_{metric}": mean_P - NORMAL_975 * error_P,
            f"high_{metric}": mean_P + NORMAL_975 * error_P,
            f"p_{metric}": p_P,
            f"fdr_{metric}": fdr_P,
        }
    return pd.DataFrame(columns)


def rank_test(value_N: Float64, number_N: Int64, n_perturbations: int) -> Float64:
    """p_P of the two-sided Mann-Whitney test of each perturbation's values against all others' together.

    Normal approximation with correction for ties and continuity, as `scipy.stats.mannwhitneyu` has it; NaN
    where one side has no pair.
    """
    n_pairs = len(value_N)
    inside_P = np.bincount(number_N, minlength=n_perturbations).astype(np.float64)
    outside_P = n_pairs - inside_P
    rank_sum_P = np.bincount(number_N, rankdata(value_N), n_perturbations)
    u_P = rank_sum_P - inside_P * (inside_P + 1) / 2
    ties = np.unique(value_N, return_counts=True)[1].astype(np.float64)
    tie_term = float((ties**3 - ties).sum()) / max(n_pairs * (n_pairs - 1.0), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread_P = np.sqrt(inside_P * outside_P / 12 * (n_pairs + 1 - tie_term))
        distance_P = np.abs(u_P - inside_P * outside_P / 2) - 0.5
        p_P = np.minimum(2 * special.ndtr(-distance_P / spread_P), 1.0)
    return np.where((inside_P > 0) & (outside_P > 0), p_P, np.nan)
