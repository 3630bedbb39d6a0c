"""Levels of maxima: AUROC of 64 bins against the exact one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from engine.interpret.evaluation.cell_bins import CellBins
from engine.interpret.levels import BINS

CELLS, FEATURES = 6000, 12

Draw = Callable[[np.random.Generator, int], np.ndarray]


def _with_outliers(rng: np.random.Generator, n: int) -> np.ndarray:
    close, far = 0.1 * rng.standard_normal(n), 2 * rng.standard_normal(n) - 5
    return np.where(rng.random(n) < 0.9, close, far)


@pytest.mark.parametrize(
    ("draw", "shift"),
    [
        (lambda rng, n: rng.standard_normal(n), 0.8),
        (lambda rng, n: 0.2 * rng.standard_t(2, n).clip(-200, 200), 0.16),
        (_with_outliers, 0.08),
    ],
    ids=["lognormal", "heavy tails", "outliers"],
)
def test_auroc_of_bins_is_the_exact_one_to_2e_4(draw: Draw, shift: float) -> None:
    rng = np.random.default_rng(0)
    is_label_C = np.arange(CELLS) < CELLS // 3
    peak_FC = np.stack(
        [np.exp2(draw(rng, CELLS) + number / 6 * shift * is_label_C) for number in range(FEATURES)]
    ).astype(np.float32)
    sample = rng.choice(CELLS, 400, replace=False)
    feature_P = np.repeat(np.arange(FEATURES), 400)
    bins = CellBins.of_sample(feature_P, peak_FC[:, sample].ravel(), FEATURES)
    errors = []
    for feature, peak_C in enumerate(peak_FC):
        bin_C = bins(np.full(CELLS, feature), peak_C)
        assert bin_C.min() >= 0
        assert bin_C.max() < BINS
        errors.append(abs(roc_auc_score(is_label_C, bin_C) - roc_auc_score(is_label_C, peak_C)))
    assert np.mean(errors) < 2e-4
    assert np.max(errors) < 6e-4


def test_exact_levels_keep_the_order() -> None:
    peak_P = np.array([3e-8, 1.0, 1.0000001, 7e5], np.float32)
    level_P = CellBins()(np.zeros(4, np.int64), peak_P)
    assert (np.diff(level_P) > 0).all()
    assert level_P.max() < CellBins().n_levels


def test_features_the_sample_has_not_seen_have_bins_too() -> None:
    bins = CellBins.of_sample(np.array([1, 1, 1]), np.array([1.0, 2.0, 4.0], np.float32), 3)
    found = bins(np.array([0, 0, 0, 2]), np.array([0.5, 2.0, 9.0, 4.0], np.float32))
    assert found[0] == 0
    assert 0 < found[1] < BINS - 1
    assert found[2] == BINS - 1
    nothing = CellBins.of_sample(np.empty(0, np.int64), np.empty(0, np.float32), 2)
    assert nothing(np.array([1]), np.array([0.7], np.float32)).shape == (1,)
