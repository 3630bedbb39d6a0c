"""The genes each feature lists: those it fires on, or those of the cells it fires in.

Shape legend: F features of a range, G token ids, P (feature, gene) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from engine.interpret.names import Names
from engine.interpret.presence import Presence
from engine.interpret.runs import Float64, Int64, PairRun, rank_within
from engine.interpret.scores import FeatureMoments, Score, pair_scores
from engine.interpret.state import FeatureState


@dataclass(frozen=True)
class TableOptions:
    """What decides the tables beside the state. min_gene_tokens: genes seen on fewer tokens are not ranked
    (they still count)."""

    top_genes: int = 100
    score: Score = "mean"
    min_gene_tokens: int = 1
    partners: int = 10


def gene_table(
    state: FeatureState,
    moments: FeatureMoments,
    names: Names,
    options: TableOptions,
    presence: Presence | None = None,
) -> pd.DataFrame:
    """The genes of each feature with the highest score, all scores beside each other (`scores.Scores`).

    Equal scores go to the smaller token id. Ranked by presence, genes come in that it never fires on; their
    other scores are then those of silence. Raises ValueError when the score is presence and there is none.
    """
    if options.score == "presence":
        if presence is None:
            raise ValueError("genes cannot be ranked by presence without the genes of sampled cells")
        state, score_P = _of_present(state, presence, options)
        scores = pair_scores(state, moments)
    else:
        scores = pair_scores(state, moments)
        score_P = scores.chosen(options.score)
    pairs = state.features.pairs
    feature_P, gene_P = np.divmod(pairs.key_P, state.plan.n_genes)
    tokens_P = state.tokens.tokens_G[gene_P]
    eligible = np.flatnonzero(tokens_P >= options.min_gene_tokens)
    order = eligible[np.lexsort((gene_P[eligible], -score_P[eligible], feature_P[eligible]))]
    rank = rank_within(feature_P[order])
    order, rank = order[rank < options.top_genes], rank[rank < options.top_genes]
    gene = gene_P[order]
    return pd.DataFrame(
        {
            "feature": feature_P[order],
            "rank": rank,
            "gene": gene,
            "gene_id": np.asarray(names.gene_id_G, dtype=object)[gene],
            "gene_name": np.asarray(names.gene_name_G, dtype=object)[gene],
            "score": score_P[order],
            "mean": scores.mean_P[order],
            "expression": scores.expression_P[order],
            "corrected": scores.corrected_P[order],
            "lift": scores.lift_P[order],
            "t": scores.t_P[order],
            "n": pairs.fired_P[order],
            "occurrences": tokens_P[order],
            "sum": pairs.total_P[order] * state.plan.resolution,
            "max": pairs.peak_P[order],
        }
    )


def _of_present(
    state: FeatureState, presence: Presence, options: TableOptions
) -> tuple[FeatureState, Float64]:
    """The state with the pairs of highest presence for its pairs, and their presence."""
    keys, values = [np.empty(0, np.int64)], [np.empty(0)]
    eligible_G = state.tokens.tokens_G >= max(options.min_gene_tokens, 1)
    for feature_F, score_FG in presence.scores(state.features):
        score_FG = np.where(eligible_G & (score_FG > 0), score_FG, 0.0)
        best_FN = np.argsort(-score_FG, axis=1, kind="stable")[:, : options.top_genes]
        value_FN = np.take_along_axis(score_FG, best_FN, axis=1)
        listed = value_FN > 0
        key_FN = feature_F[:, None] * state.plan.n_genes + best_FN
        keys.append(key_FN[listed])
        values.append(value_FN[listed])
    key_P, score_P = np.concatenate(keys), np.concatenate(values)
    order = np.argsort(key_P)
    pairs = _at(state.features.pairs, key_P[order])
    return replace(state, features=replace(state.features, pairs=pairs)), score_P[order]


def _at(pairs: PairRun, key_P: Int64) -> PairRun:
    """The entries of these keys, ascending; zeros for pairs that never fired."""
    found = np.searchsorted(pairs.key_P, key_P)
    # One entry more, so that there is something to look at behind the last key.
    longer = [np.append(column, np.zeros(1, column.dtype)) for column in pairs]
    fired = (found < pairs.key_P.size) & (longer[0][found] == key_P)
    counts, total, weighted = (np.where(fired, column[found], 0) for column in longer[1:4])
    return PairRun(key_P, counts, total, weighted, np.where(fired, longer[4][found], np.float32(0)))
