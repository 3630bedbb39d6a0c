"""How much a feature belongs to a gene: four scores of a (feature, gene) pair, and one beside them.

Shape legend: P (feature, gene) pairs, F features of a range, G token ids.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from engine.interpret.runs import Float64, Int64
from engine.interpret.state import EXPRESSION_UNIT, FeatureState

Score = Literal["mean", "expression", "lift", "t", "presence"]
"""All but `presence` are of single pairs, here; that one is across cells (`interpret.presence`)."""


class Scores(NamedTuple):
    """One value per pair.

    mean_P: mean activation over all tokens of the gene, silence counted; a gene that is merely everywhere
    does not win. expression_P: sum of activation x expression, the score of sae-genomics; it follows how
    common and how strongly expressed a gene is. lift_P: P(fires | gene) / P(fires). t_P: Student's t of the
    activation on the gene's tokens against that on all others. corrected_P: expression_P over what the
    gene's summed expression alone would give at the feature's mean activation; 1 is chance.
    """

    mean_P: Float64
    expression_P: Float64
    lift_P: Float64
    t_P: Float64
    corrected_P: Float64

    def chosen(self, score: Score) -> Float64:
        values: Float64 = getattr(self, f"{score}_P")
        return values


class FeatureMoments(NamedTuple):
    """Per feature: tokens it fires on, sum of its activation, and sum of its squares."""

    fired_F: Int64
    sum_F: Float64
    square_F: Float64


def feature_moments(state: FeatureState) -> FeatureMoments:
    """Of every feature of the range, from its pairs; sums of integers, so no order can show."""
    plan, features = state.plan, state.features
    edges = np.arange(features.first, features.stop + 1) * plan.n_genes
    place = np.searchsorted(features.pairs.key_P, edges)
    fired_F, total_F = (
        np.diff(np.concatenate([[0], np.cumsum(column)])[place])
        for column in (features.pairs.fired_P, features.pairs.total_P)
    )
    return FeatureMoments(
        fired_F,
        total_F * np.float64(plan.resolution),
        features.squares_F * np.float64(plan.square_resolution),
    )


def pair_scores(state: FeatureState, moments: FeatureMoments) -> Scores:
    """Scores of every pair of the state, in its order."""
    plan, pairs = state.plan, state.features.pairs
    feature_P, gene_P = np.divmod(pairs.key_P, plan.n_genes)
    feature_P = feature_P - state.features.first
    n_P, n_all = state.tokens.tokens_G[gene_P].astype(np.float64), float(state.tokens.n_tokens)
    sum_P: Float64 = pairs.total_P * np.float64(plan.resolution)
    weighted_P: Float64 = pairs.weighted_P * np.float64(plan.resolution)
    mean_all_F = moments.sum_F / max(n_all, 1.0)
    expected_P = state.tokens.expression_G[gene_P] * EXPRESSION_UNIT * mean_all_F[feature_P]
    return Scores(
        mean_P=sum_P / n_P,
        expression_P=weighted_P,
        lift_P=(pairs.fired_P / n_P) / (moments.fired_F[feature_P] / n_all),
        t_P=_student_t(
            sum_P, n_P, moments.sum_F[feature_P], moments.square_F[feature_P], n_all, plan.square_resolution
        ),
        corrected_P=np.divide(weighted_P, expected_P, out=np.zeros_like(sum_P), where=expected_P > 0),
    )


def _student_t(
    sum_P: Float64, n_P: Float64, sum_all_P: Float64, square_all_P: Float64, n_all: float, least: float
) -> Float64:
    """Two samples with one variance: the tokens of the gene, and all others. 0 where one side is empty.

    least: sums of squares are known to this; below it a feature that is constant would divide by 0.
    """
    other_P = n_all - n_P
    usable_P = (other_P > 0) & (n_all > 2)
    other_P = np.where(usable_P, other_P, 1.0)
    mean_P, mean_other_P = sum_P / n_P, (sum_all_P - sum_P) / other_P
    within_P = np.maximum(square_all_P - n_P * mean_P**2 - other_P * mean_other_P**2, least)
    spread_P = np.sqrt(within_P / max(n_all - 2, 1.0) * (1 / n_P + 1 / other_P))
    return np.where(usable_P, (mean_P - mean_other_P) / spread_P, 0.0)
