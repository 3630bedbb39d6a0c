"""What the pass found, as tables: a row a feature, a row a feature and label, and one row a dictionary.

Shape legend: F features, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from engine.interpret import statistics
from engine.interpret.evaluation.activity import Activity
from engine.interpret.evaluation.inputs import CLASSES, Groups
from engine.interpret.evaluation.reconstruction import Reconstruction
from engine.interpret.evaluation.token_pass import MOST_GENES
from engine.interpret.run import SINGLE_GENE_BITS
from engine.interpret.runs import CountRun, Int64

ULTRA_DENSE = 0.1
"""Share of tokens beyond which a feature fires too often to mean one thing (specs/sae.md section 6)."""
STRONG_AUROC, SIGNIFICANT_FDR = 0.9, 0.01
DENSITY_EDGES = np.arange(-8.0, 0.25, 0.25)
"""Of log10(density); the first bin is also for what is rarer."""
FEWEST_CELLS = 20
FEWEST_TOKENS = 10
"""Activations from which the entropy of a feature over genes is judged."""
_BLOCK = 2048
ALL_GROUPS = "all"
DEPTH = "genes_per_cell"


def reconstruction_table(sums: Reconstruction, dictionaries: Sequence[str], groups: Groups) -> pd.DataFrame:
    """Rows (dictionary, token class, group): see `Reconstruction.row`. Strata without tokens are left out."""
    choices: list[tuple[str, int | None]] = [(ALL_GROUPS, None)]
    choices += [(name, code) for code, name in enumerate(groups.names)] if len(groups.names) > 1 else []
    rows = [
        {"dictionary": name, "token_class": CLASSES[kind], "group": group}
        | sums.row(number, sums.strata(kind, code))
        for number, name in enumerate(dictionaries)
        for kind in range(len(CLASSES))
        for group, code in choices
    ]
    table = pd.DataFrame(rows)
    return table[table["n_tokens"] > 0].reset_index(drop=True)


def label_table(
    levels: CountRun, n_levels: int, alive_F: np.ndarray, label_cells_L: Int64, labels: Sequence[str]
) -> pd.DataFrame:
    """Rows (feature, label) of the features that fire: AUROC of the feature's maxima over cells, p of the
    rank test, and its false discovery rate over all rows. levels: as `Activity` has them."""
    names = np.asarray(labels, dtype=object)
    parts = []
    for first in range(0, len(alive_F), _BLOCK):
        stop = min(first + _BLOCK, len(alive_F))
        test = statistics.rank_test(levels, first, stop, label_cells_L, n_levels)
        alive = np.flatnonzero(alive_F[first:stop])
        auroc = test.auroc_FL[alive].ravel()
        columns = {
            "feature": np.repeat(first + alive, len(labels)),
            "label": np.tile(names, len(alive)),
            "auroc": auroc,
            "p_value": np.where(np.isnan(auroc), 1.0, test.p_FL[alive].ravel()),
            "cells_firing": test.hits_FL[alive].ravel(),
            "cells": np.tile(label_cells_L, len(alive)),
        }
        parts.append(pd.DataFrame(columns))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(fdr=statistics.benjamini_hochberg(table["p_value"].to_numpy(np.float64)))


def depth_table(depth: CountRun, label_cells_L: Int64, labels: Sequence[str]) -> pd.DataFrame:
    """The `label_table` of one "feature", the number of genes of a cell: in a cell of more genes every
    maximum is larger, so an AUROC that this one has as well says nothing about a feature."""
    return label_table(depth, MOST_GENES, np.ones(1, np.bool_), label_cells_L, labels)


def feature_table(
    activity: Activity, n_tokens: int, n_cells: int, labels: pd.DataFrame | None
) -> pd.DataFrame:
    """One row a feature, fired or not; with labels the two it ranks highest."""
    table = pd.DataFrame(
        {
            "feature": np.arange(activity.n_features),
            "n_tokens": activity.tokens_F,
            "density": activity.tokens_F / max(n_tokens, 1),
            "n_cells": activity.cells_F,
            "cell_fraction": activity.cells_F / max(n_cells, 1),
            "gene_entropy": activity.gene_entropy(),
        }
    )
    return table if labels is None else table.merge(best_labels(labels), on="feature", how="left")


def best_labels(labels: pd.DataFrame) -> pd.DataFrame:
    """The label with the highest AUROC of each feature, and by how much it beats the second best; of labels
    with `FEWEST_CELLS` cells, since among rare ones some reach any AUROC by chance."""
    known = labels[labels["auroc"].notna() & (labels["cells"] >= FEWEST_CELLS)]
    order = np.lexsort((known["label"], -known["auroc"].to_numpy(), known["feature"]))
    ranked = known.iloc[order]
    rank = ranked.groupby("feature").cumcount()
    best = ranked[rank == 0].set_index("feature")
    second = ranked[rank == 1].set_index("feature")
    table = best[["label", "auroc", "fdr"]].add_prefix("best_label_")
    table = table.rename(columns={"best_label_label": "best_label"}).join(
        second[["label", "auroc"]].rename(columns={"label": "second_label", "auroc": "second_label_auroc"})
    )
    table["label_margin"] = table["best_label_auroc"] - table["second_label_auroc"]
    return table.reset_index()


def density_table(features: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rows (dictionary, bin): features whose log10 of density lies in `[low, high)`; silent ones apart, with
    low and high missing."""
    parts = []
    for name, table in features.items():
        alive = table.loc[table["n_tokens"] > 0, "density"].to_numpy()
        log = np.clip(np.log10(alive), DENSITY_EDGES[0], DENSITY_EDGES[-1] - 1e-9)
        counts = np.histogram(log, DENSITY_EDGES)[0]
        low, high = np.append(np.nan, DENSITY_EDGES[:-1]), np.append(np.nan, DENSITY_EDGES[1:])
        counts = np.append(len(table) - len(alive), counts)
        parts.append(
            pd.DataFrame({"dictionary": name, "log10_low": low, "log10_high": high, "n_features": counts})
        )
    return pd.concat(parts, ignore_index=True)


def dictionary_row(sums: Reconstruction, number: int, features: pd.DataFrame, kind: int) -> dict[str, Any]:
    """What one dictionary comes to, on tokens of one kind of all cells. Shares of features that fire, but for
    `dead_share`."""
    alive = features[features["n_tokens"] > 0]
    found = sums.row(number, sums.strata(kind))
    # Whatever fires on a token or two fires on a gene or two.
    judged = alive["n_tokens"] >= FEWEST_TOKENS
    single = judged & (alive["gene_entropy"] < SINGLE_GENE_BITS)
    row = {
        "n_features": len(features),
        "fvu": found["fvu"],
        "l0": found["l0"],
        "dead_share": 1 - len(alive) / max(len(features), 1),
        "ultra_dense_share": _mean(alive["density"] > ULTRA_DENSE),
        "median_density": float(alive["density"].median()),
        "single_gene_share": _mean(single[judged]),
    }
    return row | (_label_row(alive, single) if "best_label" in alive else {})


def depth_row(table: pd.DataFrame) -> dict[str, Any]:
    """The row of a `depth_table` among the dictionaries."""
    best = best_labels(table)
    return {"dictionary": DEPTH, "n_features": 1} | _label_row(best, pd.Series(False, best.index))


def _label_row(alive: pd.DataFrame, single: pd.Series) -> dict[str, Any]:
    strong = (alive["best_label_auroc"] > STRONG_AUROC) & (alive["best_label_fdr"] < SIGNIFICANT_FDR)
    return {
        "mean_best_auroc": float(alive["best_label_auroc"].mean()),
        "mean_best_auroc_many_genes": float(alive.loc[~single, "best_label_auroc"].mean()),
        "mean_label_margin": float(alive["label_margin"].mean()),
        "strong_label_share": _mean(strong),
        "strong_label_share_many_genes": _mean(strong[~single]),
        "labels_with_a_strong_feature": int(alive.loc[strong, "best_label"].nunique()),
    }


def _mean(values: pd.Series) -> float:
    return float(values.mean()) if len(values) else float("nan")
