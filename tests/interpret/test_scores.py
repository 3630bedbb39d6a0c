"""Scores of features and genes against their definitions, token by token."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from engine.interpret.gene_ranking import TableOptions
from engine.interpret.scores import feature_moments, pair_scores
from engine.interpret.tables import tabulate
from tests.interpret.small_pass import FEATURES, GENES, SmallPass


def test_scores_equal_their_definitions() -> None:
    case = SmallPass.random(1)
    state = case.whole()
    moments = feature_moments(state)
    scores = pair_scores(state, moments)
    rows, a_TF = case.gene_tokens, case.activations[case.gene_tokens].astype(np.float64)
    gene_T, expression_T = case.gene_T[rows], case.expression_T[rows].astype(np.float64)
    for place, key in enumerate(state.features.pairs.key_P):
        feature, gene = divmod(int(key), GENES)
        here, value_T = gene_T == gene, a_TF[:, feature]
        assert scores.mean_P[place] == pytest.approx(value_T[here].mean(), rel=1e-9)
        product = (value_T * expression_T)[here].sum()
        assert scores.expression_P[place] == pytest.approx(product, rel=1e-9)
        assert scores.corrected_P[place] == pytest.approx(
            product / (expression_T[here].sum() * value_T.mean()), rel=1e-6
        )
        assert scores.lift_P[place] == pytest.approx((value_T[here] > 0).mean() / (value_T > 0).mean())
        expected = stats.ttest_ind(value_T[here], value_T[~here]).statistic
        assert scores.t_P[place] == pytest.approx(expected, rel=1e-4)
    assert moments.fired_F.tolist() == (a_TF > 0).sum(axis=0).tolist()
    assert moments.fired_F[FEATURES - 1] == 0


@pytest.mark.parametrize("score", ["mean", "expression", "lift", "t"])
def test_genes_are_ranked_by_the_score_asked_for(score: str) -> None:
    case = SmallPass.random(2)
    top = tabulate(case.whole(), case.names, TableOptions(top_genes=4, score=score)).top_genes
    np.testing.assert_array_equal(top["score"], top[score])
    for _, rows in top.groupby("feature"):
        assert (np.diff(rows["score"]) <= 0).all()
        assert rows["rank"].tolist() == list(range(len(rows)))


def test_a_feature_of_one_gene_that_never_varies_has_a_finite_score() -> None:
    case = SmallPass.random(0)
    rows = case.gene_tokens
    one_gene = case.gene_T == 4
    case.x_TD[:] = 0.0
    case.x_TD[one_gene] = case.sae.weight_DF[:, 0] * 9
    scores = pair_scores(case.whole(), feature_moments(case.whole()))
    assert np.isfinite(scores.t_P).all()
    assert scores.t_P.max() > 100
    assert rows.size
