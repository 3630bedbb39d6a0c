"""The table of perturbations against scipy, pair by pair."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from engine.interpret.perturbing.statistics import perturbation_table, rank_test


def test_ranks_are_scipy_s() -> None:
    random = np.random.default_rng(0)
    number_N = random.integers(0, 5, 400)
    value_N = np.round(random.normal(size=400) + (number_N == 2), 1)  # many ties
    found = rank_test(value_N, number_N, 6)
    for number in range(5):
        inside, outside = value_N[number_N == number], value_N[number_N != number]
        expected = scipy.stats.mannwhitneyu(inside, outside, method="asymptotic").pvalue
        assert found[number] == pytest.approx(expected, rel=1e-9)
    assert np.isnan(found[5])
    assert np.isnan(rank_test(value_N, np.zeros(400, np.int64), 1)).all()


def test_means_intervals_and_rates() -> None:
    random = np.random.default_rng(1)
    pairs = pd.DataFrame({"perturbation": random.integers(0, 3, 200), "cell": np.arange(200)})
    pairs["shift"] = random.normal(size=200) + 3 * (pairs["perturbation"] == 1)
    table = perturbation_table(pairs, 4, ("shift",)).set_index("perturbation")
    values = pairs["shift"][pairs["perturbation"] == 1]
    assert table.loc[1, "n_cells"] == len(values)
    assert table.loc[1, "shift"] == pytest.approx(values.mean())
    assert table.loc[1, "high_shift"] - table.loc[1, "shift"] == pytest.approx(1.959964 * values.sem())
    expected = scipy.stats.false_discovery_control(table["p_shift"][:3])
    np.testing.assert_allclose(table["fdr_shift"][:3], expected)
    assert table.loc[3, "n_cells"] == 0
    assert np.isnan(table.loc[3, "shift"])
