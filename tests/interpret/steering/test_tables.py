"""Intervals over cells, and sums by gene that merge."""

from __future__ import annotations

import numpy as np
import pytest

from engine.interpret.steering.tables import bootstrap, dose_response
from engine.interpret.steering.totals import GeneSums


def test_bootstrap_intervals_are_those_of_the_mean() -> None:
    random = np.random.default_rng(0)
    values_CX = random.normal([1.0, -2.0], [1.0, 3.0], (400, 2)).astype(np.float32)
    mean_X, low_X, high_X = bootstrap(values_CX, seed=1)
    np.testing.assert_allclose(mean_X, values_CX.mean(axis=0), rtol=1e-5)
    error_X = values_CX.std(axis=0) / 20
    np.testing.assert_allclose(high_X - low_X, 2 * 1.96 * error_X, rtol=0.15)
    assert ((low_X < mean_X) & (mean_X < high_X)).all()


def test_cells_without_a_value_do_not_count() -> None:
    values_CX = np.array([[1, np.nan, np.nan], [3, 5, np.nan], [2, 5, np.nan]], np.float32)
    mean_X, low_X, high_X = bootstrap(values_CX, seed=0, replicates=200)
    np.testing.assert_allclose(mean_X, [2, 5, np.nan])
    np.testing.assert_allclose([low_X[1], high_X[1]], [5, 5])
    assert np.isnan([low_X[2], high_X[2]]).all()
    assert np.isnan(bootstrap(np.zeros((0, 2), np.float32), seed=0)).all()


def test_dose_response_is_the_slope_of_the_means() -> None:
    versions = [
        {
            "kind": kind,
            "dose": dose,
            "edits": "",
            "shift": {"mean": slope * dose},
            "on_target": {"mean": None},
        }
        for kind, slope in (("edit", 2.0), ("noise", -0.5))
        for dose in (0.5, 1.0, 3.0)
    ]
    found = dose_response(versions)
    assert {kind: list(slopes) for kind, slopes in found.items()} == {"edit": ["shift"], "noise": ["shift"]}
    assert (found["edit"]["shift"], found["noise"]["shift"]) == pytest.approx((2.0, -0.5))
    assert dose_response(versions[:1]) == {}


def test_merged_sums_are_those_of_all_cells() -> None:
    random = np.random.default_rng(0)
    whole, parts = GeneSums.empty(3, 2, 30), [GeneSums.empty(3, 2, 30) for _ in range(2)]
    for number in range(6):
        gene_R = random.choice(30, 8, replace=False)
        base_QR = random.normal(size=(2, 8)).astype(np.float32)
        change_VQR = random.normal(size=(3, 2, 8)).astype(np.float32)
        whole.add(gene_R, base_QR, change_VQR)
        parts[number % 2].add(gene_R, base_QR, change_VQR)
    merged = GeneSums.merged(30, [part.arrays() for part in parts])
    np.testing.assert_array_equal(merged.count_G, whole.count_G)
    for name in ("base_QG", "change_VQG", "square_VQG"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), atol=1e-12)
    with pytest.raises(ValueError, match="no part"):
        GeneSums.merged(30, [])
