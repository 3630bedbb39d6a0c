"""The tables a finished feature pass is read from: features, top genes, top cells, labels.

Every row order is fixed (feature, then rank or label), so the same state always gives the same files.

Shape legend: F features, L labels, P (feature, gene) pairs, G token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.interpret import statistics
from engine.interpret.features import FeatureState
from engine.interpret.runs import Float64, Int64, level_count, rank_within

LABEL_BLOCK = 2048
"""Features whose label statistics are computed together: with 50 labels, under 1 MB an array."""


@dataclass(frozen=True)
class Names:
    """What numbers in a state are called: per token id, per cell row, per label."""

    gene_id_G: Sequence[str]
    gene_name_G: Sequence[str]
    cell_names: Sequence[str]
    cell_labels: Sequence[str | None] | None = None
    """Label of each cell row, None where it has none; None altogether without a label column."""
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Tables:
    """`features` has one row per feature, fired or not; the others hold features that fired."""

    features: pd.DataFrame
    top_genes: pd.DataFrame
    top_cells: pd.DataFrame
    labels: pd.DataFrame


def tabulate(state: FeatureState, names: Names, top_genes: int, min_gene_tokens: int = 1) -> Tables:
    """All tables of one pass. `min_gene_tokens`: genes seen on fewer tokens are not ranked (they still
    count)."""
    ranked_genes = gene_table(state, names, top_genes, min_gene_tokens)
    labels = label_table(state, names.labels)
    return Tables(
        features=feature_table(state, ranked_genes, labels),
        top_genes=ranked_genes,
        top_cells=cell_table(state, names),
        labels=labels,
    )


def gene_table(state: FeatureState, names: Names, keep: int, min_gene_tokens: int = 1) -> pd.DataFrame:
    """The `keep` genes of each feature with the highest score.

    The score is the feature's mean activation over all tokens of the gene, so a gene that is merely
    everywhere does not win. Equal scores go to the smaller token id.
    """
    feature_P, gene_P = np.divmod(state.pairs.key_P, state.plan.n_genes)
    total_P = state.pairs.total_P * state.plan.resolution
    occurrences_P = state.occurrences_G[gene_P]
    score_P = total_P / occurrences_P
    eligible = np.flatnonzero(occurrences_P >= min_gene_tokens)
    order = eligible[np.lexsort((gene_P[eligible], -score_P[eligible], feature_P[eligible]))]
    rank = rank_within(feature_P[order])
    order, rank = order[rank < keep], rank[rank < keep]
    gene = gene_P[order]
    return pd.DataFrame(
        {
            "feature": feature_P[order],
            "rank": rank,
            "gene": gene,
            "gene_id": np.asarray(names.gene_id_G, dtype=object)[gene],
            "gene_name": np.asarray(names.gene_name_G, dtype=object)[gene],
            "score": score_P[order],
            "n": state.pairs.fired_P[order],
            "occurrences": occurrences_P[order],
            "sum": total_P[order],
            "max": state.pairs.peak_P[order],
        }
    )


def cell_table(state: FeatureState, names: Names) -> pd.DataFrame:
    """The strongest cells of each feature by their largest activation; `mean` is over all gene tokens of the
    cell."""
    ranked = state.ranked
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

    `fdr` and `rank_fdr` are Benjamini-Hochberg over all rows of this table. Cells without a label are left
    out.
    """
    if not labels:
        return pd.DataFrame({name: [] for name in LABEL_COLUMNS})
    cells_L = state.label_cells_L
    blocks = []
    for first in range(0, state.plan.n_features, LABEL_BLOCK):
        stop = min(first + LABEL_BLOCK, state.plan.n_features)
        test = statistics.rank_test(state.levels, first, stop, cells_L, level_count(state.plan.level_bits))
        alive = np.flatnonzero(state.cells_F[first:stop])
        blocks.append(
            _label_block(first + alive, test.hits_FL[alive], cells_L, test.auroc_FL[alive], test.p_FL[alive])
        )
    table = pd.concat(blocks, ignore_index=True)
    table["label"] = pd.Categorical.from_codes(
        table["label"].to_numpy(np.int64), categories=pd.Index(list(labels))
    )
    table["fdr"] = statistics.benjamini_hochberg(table["p_value"].to_numpy())
    table["rank_fdr"] = statistics.benjamini_hochberg(table["rank_p_value"].to_numpy())
    return table[LABEL_COLUMNS]


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


def feature_table(state: FeatureState, top_genes: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """One row per feature: how often and how strongly it fires, on which genes and cells.

    `mean_activation` is over the tokens it fires on; `gene_entropy` (bits) is of its activation mass over
    genes: 0 means a single gene, 10 about a thousand. The best label has the smallest rank-test p, then the
    highest AUROC.
    """
    plan, pairs = state.plan, state.pairs
    feature_P = pairs.key_P // plan.n_genes
    fired = np.bincount(feature_P, weights=pairs.fired_P, minlength=plan.n_features).astype(np.int64)
    total = np.zeros(plan.n_features, np.int64)
    np.add.at(total, feature_P, pairs.total_P)
    peak = np.zeros(plan.n_features, np.float32)
    np.maximum.at(peak, feature_P, pairs.peak_P)
    share_P = pairs.total_P / np.maximum(total[feature_P], 1)
    bits_P = -share_P * np.log2(share_P, where=share_P > 0, out=np.zeros_like(share_P))
    table = pd.DataFrame(
        {
            "feature": np.arange(plan.n_features),
            "n_tokens": fired,
            "density": fired / max(state.n_tokens, 1),
            "max_activation": peak,
            "mean_activation": total * plan.resolution / np.maximum(fired, 1),
            "n_cells": state.cells_F,
            "cell_fraction": state.cells_F / max(state.n_cells, 1),
            "n_genes": np.bincount(feature_P, minlength=plan.n_features),
            "gene_entropy": np.bincount(feature_P, weights=bits_P, minlength=plan.n_features),
        }
    )
    first_genes = top_genes[top_genes["rank"] == 0].set_index("feature")["gene_name"]
    table["top_gene"] = table["feature"].map(first_genes).astype(object)
    return table if labels.empty else table.merge(_best_labels(labels), on="feature", how="left")


def _best_labels(labels: pd.DataFrame) -> pd.DataFrame:
    order = np.lexsort((-labels["auroc"].fillna(0.0), labels["rank_p_value"], labels["feature"]))
    best = labels.iloc[order].drop_duplicates("feature")
    best = best[["feature", "label", "odds_ratio", "p_value", "fdr", "auroc", "rank_fdr"]]
    best = best.assign(label=best["label"].astype(object))
    return best.rename(
        columns={name: f"best_label_{name}" for name in best.columns if name not in ("feature", "label")}
        | {"label": "best_label"}
    )
