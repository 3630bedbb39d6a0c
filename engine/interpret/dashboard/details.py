"""What the page of one feature shows; a file of the site holds those of FEATURES_IN_FILE features."""

from __future__ import annotations

from typing import Any

import pandas as pd

from engine.interpret.dashboard.inputs import SiteInputs
from engine.interpret.dashboard.numbers import rounded

FEATURES_IN_FILE = 64
TERM_NUMBERS = ("p", "q", "odds_haldane", "odds_low", "odds_high", "null_share", "q_parent_child")
GENES_SHOWN, CELLS_SHOWN, LABELS_SHOWN, TERMS_SHOWN, PARTNERS_SHOWN = 25, 15, 12, 40, 10


def feature_records(inputs: SiteInputs, key: str) -> dict[int, dict[str, Any]]:
    """Records of a range of features, by number; JSON values."""
    tables = inputs.features
    numbers = tables.table("features", [key])["feature"].tolist()
    of_table = {
        "genes": _by_feature(tables.table("top_genes", [key])),
        "cells": _by_feature(tables.table("top_cells", [key])),
        "labels": _by_feature(tables.table("labels", [key])),
        "bins": _by_feature(tables.table("histograms", [key])),
        "partners": _by_feature(tables.table("partners", [key])),
    }
    terms = inputs.terms(key)
    of_terms = {} if terms is None else _by_feature(terms)
    edges = inputs.enrichment.table("edges", [key]) if inputs.enrichment else None
    of_edges = {} if edges is None else _by_feature(edges)
    described = {} if inputs.described is None else _rows_of(inputs.described, numbers)
    records = {}
    for feature in numbers:
        record: dict[str, Any] = {name: _PARTS[name](rows.get(feature)) for name, rows in of_table.items()}
        if terms is not None:
            record["terms"] = _terms(of_terms.get(feature))
            record["edges"] = _edges(of_edges.get(feature))
            record["summary"] = _summary(described.get(feature))
        if inputs.matches is not None and feature in inputs.matches.index:
            record["match"] = _match(inputs.matches.loc[feature])
        if feature in inputs.steering_effects:
            record["steering"] = inputs.steering_effects[feature]
        records[int(feature)] = record
    return records


def _by_feature(table: pd.DataFrame) -> dict[int, pd.DataFrame]:
    return {int(str(feature)): rows for feature, rows in table.groupby("feature", sort=False)}


def _rows_of(table: pd.DataFrame, numbers: list[int]) -> dict[int, dict[str, Any]]:
    chosen = table[table["feature"].isin(numbers)]
    return {int(row["feature"]): {str(k): v for k, v in row.items()} for row in chosen.to_dict("records")}


def _columns(*columns: list[Any]) -> list[list[Any]]:
    """Rows of equally long columns."""
    return [list(row) for row in zip(*columns, strict=True)]


def _genes(rows: pd.DataFrame | None) -> list[list[Any]]:
    """name, mean, lift, activation x expression, tokens fired on, tokens."""
    if rows is None:
        return []
    top = rows.head(GENES_SHOWN)
    scores = [rounded(top[name]) for name in ("mean", "lift", "expression")]
    return _columns(
        top["gene_name"].astype(str).tolist(), *scores, top["n"].tolist(), top["occurrences"].tolist()
    )


def _cells(rows: pd.DataFrame | None) -> list[list[Any]]:
    """name, label or None, largest activation."""
    if rows is None:
        return []
    top = rows.head(CELLS_SHOWN)
    labels = top["label"].tolist() if "label" in top else [None] * len(top)
    names = [None if pd.isna(label) else str(label) for label in labels]
    return _columns(top["cell_name"].astype(str).tolist(), names, rounded(top["max_activation"]))


def _labels(rows: pd.DataFrame | None) -> list[list[Any]]:
    """label, cells firing, cells, odds ratio, rate of Fisher's test, AUROC, rate of the AUROC; best first."""
    if rows is None:
        return []
    top = rows.sort_values("auroc", ascending=False, na_position="last").head(LABELS_SHOWN)
    scores = [rounded(top[name], 3) for name in ("odds_ratio", "fdr", "auroc", "rank_fdr")]
    names = top["label"].astype(str).tolist()
    return _columns(names, top["cells_firing"].tolist(), top["cells"].tolist(), *scores)


def _bins(rows: pd.DataFrame | None) -> list[list[Any]]:
    """low, high, tokens."""
    if rows is None:
        return []
    return _columns(rounded(rows["low"]), rounded(rows["high"]), rows["n_tokens"].tolist())


def _partners(rows: pd.DataFrame | None) -> list[list[Any]]:
    """feature, correlation, cosine of decoder directions, tokens both fire on."""
    if rows is None:
        return []
    top = rows.head(PARTNERS_SHOWN)
    scores = [rounded(top[name], 3) for name in ("correlation", "cosine")]
    return _columns(top["partner"].tolist(), *scores, top["joint"].tolist())


_PARTS = {"genes": _genes, "cells": _cells, "labels": _labels, "bins": _bins, "partners": _partners}


def _terms(rows: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Significant terms first, then by rate."""
    if rows is None:
        return []
    order = rows.sort_values(["significant", "q", "p"], ascending=[False, True, True], kind="stable")
    found = []
    for row in order.head(TERMS_SHOWN).to_dict("records"):
        numbers = rounded([row[name] for name in TERM_NUMBERS], 3)
        found.append(
            {
                "group": row["group"],
                "source": row["source"],
                "id": row["term_id"],
                "name": row["term"],
                "hit": bool(row["significant"]),
                "sharp": bool(row["most_specific"]),
                "k": int(row["overlap"]),
                "K": int(row["term_genes"]),
                "n": int(row["list_genes"]),
                "genes": row["genes"],
                "numbers": numbers,
            }
        )
    return found


def _edges(rows: pd.DataFrame | None) -> list[list[Any]]:
    """gene, gene, score, module."""
    if rows is None:
        return []
    ends = [rows[name].astype(str).tolist() for name in ("gene_a", "gene_b")]
    return _columns(*ends, *(rows[name].astype(int).tolist() for name in ("score", "module")))


def _summary(row: dict[str, Any] | None) -> dict[str, Any]:
    if row is None:
        return {}
    found = {
        "name": row["label"],
        "confidence": row["label_confidence"],
        "basis": row["label_basis"],
        "by": row["label_by"],
    }
    if "edges" in row and not pd.isna(row["edges"]):
        numbers = rounded([row["edges_expected"], row["edges_p"], row["edges_q"]], 3)
        found["network"] = [int(row["edges"]), *numbers, int(row["network_genes"])]
    return found


def _match(row: pd.Series) -> list[Any]:
    """share of the others that have it, best autoencoder, feature there, mean similarity."""
    stability, similarity = rounded([row["stability"], row["mean_similarity"]], 3)
    return [stability, int(row["best_sae"]), int(row["best_feature"]), similarity]
