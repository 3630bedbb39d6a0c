"""The tables a finished feature pass is read from: features, genes, cells, labels, histograms, partners.

Every row order is fixed (feature, then rank, label or bin), so the same state always gives the same files,
and the tables of ranges of features, one after the other, are those of all features.

Shape legend: F features, L labels, P (feature, gene) pairs, G token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.interpret import statistics
from engine.interpret.coactivation import partner_table
from engine.interpret.gene_ranking import TableOptions, gene_table
from engine.interpret.levels import BINS, bin_edges
from engine.interpret.names import Names
from engine.interpret.presence import Presence
from engine.interpret.runs import Float64, Int64, rank_within
from engine.interpret.scores import FeatureMoments, feature_moments
from engine.interpret.state import EXPRESSION_UNIT, FeatureState, TokenTotals

LABEL_BLOCK = 2048
"""Features whose label statistics are computed together: with 50 labels, under 1 MB an array."""


@dataclass(frozen=True)
class Tables:
    """`features` has one row per feature, fired or not; the others hold features that fired."""

    features: pd.DataFrame
    top_genes: pd.DataFrame
    top_cells: pd.DataFrame
    labels: pd.DataFrame
    histograms: pd.DataFrame
    partners: pd.DataFrame


def tabulate(
    state: FeatureState,
    names: Names,
    options: TableOptions,
    labels: pd.DataFrame | None = None,
    presence: Presence | None = None,
) -> Tables:
    """All tables of the range of features in `state`.

    labels: their `label_table` with false discovery rates over all ranges (`with_fdr`); computed here when
    the state is the only range. presence: genes of the sampled cells, which the score `presence` needs.
    """
    if labels is None:
        labels = with_fdr(label_table(state, names.labels))
    moments = feature_moments(state)
    ranked_genes = gene_table(state, moments, names, options, presence)
    features = feature_table(state, moments, ranked_genes, labels)
    for name, values_F in names.feature_columns.items():
        features[name] = values_F[state.features.first : state.features.stop]
    return Tables(
        features=features,
        top_genes=ranked_genes,
        top_cells=cell_table(state, names),
        labels=labels,
        histograms=histogram_table(state),
        partners=partner_table(state, options.partners),
    )


def vocabulary_table(tokens: TokenTotals, names: Names) -> pd.DataFrame:
    """One row per token id: how often its gene was seen, and its mean log expression there."""
    expression_G = tokens.expression_G * EXPRESSION_UNIT
    return pd.DataFrame(
        {
            "gene": np.arange(len(tokens.tokens_G)),
            "gene_id": np.asarray(names.gene_id_G, dtype=object),
            "gene_name": np.asarray(names.gene_name_G, dtype=object),
            "n_tokens": tokens.tokens_G,
            "sum_expression": expression_G,
            "mean_expression": expression_G / np.maximum(tokens.tokens_G, 1),
        }
    )


def histogram_table(state: FeatureState) -> pd.DataFrame:
    """How many tokens a feature fires on with an activation in `[low, high)`; empty bins are left out.

    Four bins to an octave. Activations outside the 64 bins are counted in the first or last of them.
    """
    bins, edges = state.features.bins, bin_edges(state.plan.resolution)
    feature, number = np.divmod(bins.key_K, BINS)
    columns = {"feature": feature, "bin": number, "low": edges[number], "high": edges[number + 1]}
    return pd.DataFrame(columns | {"n_tokens": bins.count_K})


def cell_table(state: FeatureState, names: Names) -> pd.DataFrame:
    """The strongest cells of each feature by their largest activation; `mean` is over all gene tokens of the
    cell."""
    ranked = state.features.ranked
    table = pd.DataFrame(
        {
            "feature": ranked.feature_R,
            "rank": rank_within(ranked.feature_R),
            "cell": ranked.cell_R,
            "cell_name": np.asarray(names.cell_names, dtype=object)[ranked.cell_R],
            "max_activation": ranked.peak_R,
            "mean_activation": ranked.mean_R,
        }
    )
    if names.cell_labels is not None:
        table["label"] = np.asarray(names.cell_labels, dtype=object)[ranked.cell_R]
    return table


LABEL_COLUMNS = [
    "feature",
    "label",
    "cells_firing",
    "cells",
    "other_firing",
    "other_cells",
    "odds_ratio",
    "p_value",
    "fdr",
    "auroc",
    "rank_p_value",
    "rank_fdr",
]


def label_table(state: FeatureState, labels: Sequence[str]) -> pd.DataFrame:
    """Every feature that fired x every label: firing counts inside and outside, Fisher's test, AUROC.

    Cells without a label are left out. False discovery rates are still 0: `with_fdr` sets them.
    """
    if not labels:
        return pd.DataFrame({name: [] for name in LABEL_COLUMNS})
    cells_L, features = state.tokens.label_cells_L, state.features
    blocks = []
    for first in range(features.first, features.stop, LABEL_BLOCK):
        stop = min(first + LABEL_BLOCK, features.stop)
        test = statistics.rank_test(features.levels, first, stop, cells_L, state.plan.n_levels)
        alive = np.flatnonzero(features.cells_F[first - features.first : stop - features.first])
        blocks.append(
            _label_block(first + alive, test.hits_FL[alive], cells_L, test.auroc_FL[alive], test.p_FL[alive])
        )
    table = pd.concat(blocks, ignore_index=True)
    table["label"] = np.asarray(labels, dtype=object)[table["label"].to_numpy(np.int64)]
    return table.assign(fdr=0.0, rank_fdr=0.0)[LABEL_COLUMNS]


P_VALUES = ("p_value", "rank_p_value")


def with_fdr(table: pd.DataFrame, rates: Sequence[Float64] | None = None) -> pd.DataFrame:
    """A `label_table` with its false discovery rates (Benjamini-Hochberg): over its own rows, or `rates`,
    those of `p_value` and of `rank_p_value` over the rows of all ranges."""
    if rates is None:
        rates = [statistics.benjamini_hochberg(table[name].to_numpy(np.float64)) for name in P_VALUES]
    return table.assign(fdr=rates[0], rank_fdr=rates[1])


def _label_block(
    feature_F: Int64, hits_FL: Int64, cells_L: Int64, auroc_FL: Float64, p_FL: Float64
) -> pd.DataFrame:
    shape = hits_FL.shape
    hits = hits_FL.ravel()
    inside = np.broadcast_to(cells_L, shape).ravel()
    outside_hits = (hits_FL.sum(axis=1, keepdims=True) - hits_FL).ravel()
    outside = cells_L.sum() - inside
    return pd.DataFrame(
        {
            "feature": np.repeat(feature_F, shape[1]),
            "label": np.tile(np.arange(shape[1]), shape[0]),
            "cells_firing": hits,
            "cells": inside,
            "other_firing": outside_hits,
            "other_cells": outside,
            "odds_ratio": statistics.odds_ratio(hits, inside, outside_hits, outside),
            "p_value": statistics.fisher_greater(hits, inside, outside_hits, outside),
            "auroc": auroc_FL.ravel(),
            # A label that covers all cells or none has nothing to be ranked against.
            "rank_p_value": np.where(np.isnan(auroc_FL), 1.0, p_FL).ravel(),
        }
    )


def feature_table(
    state: FeatureState, moments: FeatureMoments, top_genes: pd.DataFrame, labels: pd.DataFrame
) -> pd.DataFrame:
    """One row per feature: how often and how strongly it fires, on which genes and cells.

    `mean_activation` and `std_activation` are over the tokens it fires on; `gene_entropy` (bits) is of its
    activation mass over genes: 0 means a single gene, 10 about a thousand. The best label has the smallest
    rank-test p, then the highest AUROC.
    """
    plan, features = state.plan, state.features
    n_features = features.stop - features.first
    feature_P = features.pairs.key_P // plan.n_genes - features.first
    peak_F = np.zeros(n_features, np.float32)
    np.maximum.at(peak_F, feature_P, features.pairs.peak_P)
    fired_F = np.maximum(moments.fired_F, 1)
    mean_F = moments.sum_F / fired_F
    share_P = (
        features.pairs.total_P * plan.resolution / np.where(moments.sum_F > 0, moments.sum_F, 1)[feature_P]
    )
    bits_P = -share_P * np.log2(share_P, where=share_P > 0, out=np.zeros_like(share_P))
    table = pd.DataFrame(
        {
            "feature": np.arange(features.first, features.stop),
            "n_tokens": moments.fired_F,
            "density": moments.fired_F / max(state.tokens.n_tokens, 1),
            "max_activation": peak_F,
            "mean_activation": mean_F,
            "std_activation": np.sqrt(np.maximum(moments.square_F / fired_F - mean_F**2, 0)),
            "n_cells": features.cells_F,
            "cell_fraction": features.cells_F / max(state.tokens.n_cells, 1),
            "n_genes": np.bincount(feature_P, minlength=n_features),
            "gene_entropy": np.bincount(feature_P, weights=bits_P, minlength=n_features),
        }
    )
    first_genes = top_genes[top_genes["rank"] == 0].set_index("feature")["gene_name"]
    table["top_gene"] = table["feature"].map(first_genes).astype(object)
    return table if labels.empty else table.merge(_best_labels(labels), on="feature", how="left")


def _best_labels(labels: pd.DataFrame) -> pd.DataFrame:
    order = np.lexsort((-labels["auroc"].fillna(0.0), labels["rank_p_value"], labels["feature"]))
    best = labels.iloc[order].drop_duplicates("feature")
    best = best[["feature", "label", "odds_ratio", "p_value", "fdr", "auroc", "rank_fdr"]]
    return best.rename(
        columns={name: f"best_label_{name}" for name in best.columns if name not in ("feature", "label")}
        | {"label": "best_label"}
    )
