"""Sums of attributions, the table, and how far the ways agree."""

from __future__ import annotations

import numpy as np
import pytest

from engine.interpret.attribution import Metric
from engine.interpret.attribution.passes import Depth, attribute
from engine.interpret.attribution.scores import Checked, Scores, agreement, attribution_table
from engine.models import sae
from tests.models.small_models import small_tahoe, tokens_of


def test_scores_are_of_cells_and_merge() -> None:
    random = np.random.default_rng(0)
    cell_N, feature_N = random.integers(0, 9, 200), random.integers(0, 5, 200)
    effect_N = random.normal(size=200).astype(np.float32)
    whole, first, second = (Scores.empty(6) for _ in range(3))
    whole.add(cell_N, feature_N, effect_N)
    for part, rows in ((first, cell_N < 4), (second, cell_N >= 4)):
        part.add(cell_N[rows], feature_N[rows], effect_N[rows])
        part.n_cells, part.value = int(rows.sum()), 1.5
    first.merge(second)
    by_cell = np.zeros((9, 6))
    np.add.at(by_cell, (cell_N, feature_N), effect_N)
    np.testing.assert_allclose(whole.sum_F, by_cell.sum(axis=0), atol=1e-6)
    np.testing.assert_allclose(whole.square_F, (by_cell**2).sum(axis=0), atol=1e-6)
    np.testing.assert_array_equal(whole.tokens_F, np.bincount(feature_N, minlength=6))
    for name in ("sum_F", "square_F", "cells_F", "tokens_F"):
        np.testing.assert_allclose(getattr(first, name), getattr(whole, name), atol=1e-9)
    assert (first.n_cells, first.value) == (200, 3.0)
    assert 5 not in whole.strongest(6)  # it never fired


def test_the_table_and_the_agreement() -> None:
    scores = Scores(
        4, 2.0, np.array([4.0, -8, 2, 0]), np.array([5.0, 17, 3, 0]), *[np.array([3, 4, 1, 0])] * 2
    )
    exact_CJ = np.array([[-2, 1], [-2, 1], [-2, 1], [-2, 1]], np.float32)
    table = attribution_table(scores, Checked((1, 0, 2), np.array([-4.0, 2, 1]), (1, 0), exact_CJ), seed=0)
    assert table["feature"].tolist() == [1, 0, 2]
    assert table["effect"].tolist() == [-2.0, 1.0, 0.5]
    assert table["integrated"].tolist() == [-1.0, 0.5, 0.25]
    assert table["exact"].tolist()[:2] == [-2.0, 1.0]
    assert table["exact"].isna().tolist() == [False, False, True]
    assert (table["low"] < table["effect"]).all()
    assert agreement(table)["patching"] == {"n_features": 2, "pearson": None, "spearman": None}
    table["exact"] = [-2.1, 1.2, 0.4]
    found = agreement(table)
    assert found["patching"]["pearson"] == pytest.approx(np.corrcoef(table["exact"], table["effect"])[0, 1])
    assert found["integrated_gradients"]["spearman"] == pytest.approx(1)


def test_patching_finds_what_ablation_confirms() -> None:
    encoder = small_tahoe()
    found = attribute(
        encoder,
        tokens_of(encoder, 40),
        sae.create(16, 64, 8, seed=1),
        Metric("loss"),
        hook="resid_post_0",
        depth=Depth(top_share=0.2, ablated=10),
        batch_tokens=300,
    )
    assert found.agreement["patching"]["pearson"] > 0.8  # type: ignore[index]
    closely = found.features[found.features["integrated"].notna()]
    assert len(closely) == 13
    assert found.features["exact"].notna().sum() == 10
    assert found.n_cells == 39  # one is empty
