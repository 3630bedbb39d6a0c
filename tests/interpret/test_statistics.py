"""Association statistics against scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from engine.interpret import statistics
from tests.interpret.small_pass import FEATURES, LABELS, SmallPass


def test_fisher_and_odds_ratio_equal_scipy() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(1, 60, 200), rng.integers(1, 900, 200)
    hits, others = rng.integers(0, inside + 1), rng.integers(0, outside + 1)
    p = statistics.fisher_greater(hits, inside, others, outside)
    ratio = statistics.odds_ratio(hits, inside, others, outside)
    for row in range(200):
        table = [[hits[row], inside[row] - hits[row]], [others[row], outside[row] - others[row]]]
        expected = stats.fisher_exact(table, alternative="greater")
        assert p[row] == pytest.approx(expected.pvalue, rel=1e-7)
        np.testing.assert_allclose(ratio[row], expected.statistic, rtol=1e-12)


def test_benjamini_hochberg_equals_scipy() -> None:
    p = np.random.default_rng(1).random((7, 9)) ** 3
    expected = stats.false_discovery_control(p.ravel(), method="bh").reshape(p.shape)
    np.testing.assert_allclose(statistics.benjamini_hochberg(p), expected, rtol=1e-12)
    assert statistics.benjamini_hochberg(np.empty(0)).size == 0


@pytest.mark.parametrize(("exact", "tolerance"), [(True, 1e-12), (False, 0.03)])
def test_rank_test_equals_scikit_learn_and_scipy(exact: bool, tolerance: float) -> None:
    case = SmallPass.random(2, exact_levels=exact)
    state = case.whole()
    test = statistics.rank_test(
        state.features.levels, 2, FEATURES, state.tokens.label_cells_L, state.plan.n_levels
    )
    rows = case.gene_tokens
    cells = np.array([cell for cell in np.unique(case.cell_T[rows]) if case.label_of_cell[cell] >= 0])
    peaks = np.array([case.activations[rows[case.cell_T[rows] == cell]].max(axis=0) for cell in cells])
    for feature in range(2, FEATURES):
        for label in range(len(LABELS)):
            is_label = case.label_of_cell[cells] == label
            peak = peaks[:, feature].astype(np.float64)
            assert test.hits_FL[feature - 2, label] == (peak[is_label] > 0).sum()
            assert test.auroc_FL[feature - 2, label] == pytest.approx(
                roc_auc_score(is_label, peak), abs=tolerance
            )
            if exact and peak.any():
                expected = stats.mannwhitneyu(
                    peak[is_label],
                    peak[~is_label],
                    alternative="greater",
                    method="asymptotic",
                    use_continuity=False,
                )
                assert test.p_FL[feature - 2, label] == pytest.approx(expected.pvalue, rel=1e-9)


def test_blocks_of_features_agree() -> None:
    case = SmallPass.random(5)
    state = case.whole()
    whole = statistics.rank_test(
        state.features.levels, 0, FEATURES, state.tokens.label_cells_L, state.plan.n_levels
    )
    part = statistics.rank_test(state.features.levels, 4, 9, state.tokens.label_cells_L, state.plan.n_levels)
    np.testing.assert_array_equal(part.auroc_FL, whole.auroc_FL[4:9])
    np.testing.assert_array_equal(part.hits_FL, whole.hits_FL[4:9])


def test_one_label_for_all_cells_says_nothing() -> None:
    case = SmallPass.random(0)
    case.label_of_cell[:] = 1
    state = case.whole()
    test = statistics.rank_test(
        state.features.levels, 0, FEATURES, state.tokens.label_cells_L, state.plan.n_levels
    )
    assert np.isnan(test.auroc_FL).all()
