"""Partners of features against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.interpret import coactivation
from engine.interpret.coactivation import LEAST_JOINT, partner_table
from engine.interpret.state import FeatureState
from tests.interpret.small_pass import FEATURES, SmallPass


def test_partners_equal_dense_correlations() -> None:
    case = SmallPass.random(0, sample_share=1.0)
    table = partner_table(case.whole(), keep=3)
    a_TF = case.activations[case.gene_tokens].astype(np.float64)
    fires_TF = a_TF > 0
    alive = np.flatnonzero(fires_TF.any(axis=0))
    correlation = np.full((FEATURES, FEATURES), np.nan)
    correlation[np.ix_(alive, alive)] = np.corrcoef(a_TF[:, alive].T)
    joint = fires_TF.T.astype(int) @ fires_TF
    for feature in alive:
        others = [f for f in alive if f != feature and joint[feature, f] >= LEAST_JOINT]
        others.sort(key=lambda other: -correlation[feature, other])
        found = table[table["feature"] == feature]
        assert found["partner"].tolist() == others[:3]
        np.testing.assert_allclose(found["correlation"], correlation[feature, others[:3]], rtol=1e-9)
        for row in found.itertuples():
            a, b = a_TF[:, feature], a_TF[:, row.partner]
            assert row.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            assert row.joint == joint[feature, row.partner]
            assert (row.tokens, row.partner_tokens) == ((a > 0).sum(), (b > 0).sum())
            chance = (a > 0).mean() * (b > 0).mean()
            assert row.pmi == pytest.approx(np.log2(row.joint / len(a_TF) / chance))


def test_blocks_and_ranges_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    case = SmallPass.random(1, sample_share=0.7)
    state = case.whole()
    expected = partner_table(state, keep=5)
    monkeypatch.setattr(coactivation, "BLOCK_FEATURES", 2)
    parts = [
        partner_table(FeatureState(state.plan, state.tokens, part), keep=5)
        for part in state.features.cut(state.plan, [0, 3, 4, FEATURES])
    ]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), expected, check_exact=True)


def test_without_a_sample_there_are_no_partners() -> None:
    case = SmallPass.random(0)
    assert partner_table(case.whole(), keep=3).empty
    sampled = SmallPass.random(0, sample_share=1.0)
    assert partner_table(sampled.whole(), keep=0).columns.tolist() == coactivation.COLUMNS
