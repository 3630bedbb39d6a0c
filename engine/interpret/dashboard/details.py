"""What the page of one feature shows; a file of the site holds those of FEATURES_IN_FILE features.

Tables become lists once for a range of features and are cut by feature then: a hundred thousand features are
too many for a frame each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from engine.interpret.comparison.matching import Partners
from engine.interpret.dashboard.inputs import SiteInputs
from engine.interpret.dashboard.numbers import rounded
from engine.interpret.dashboard.trees import trees
from engine.interpret.runs import segments

FEATURES_IN_FILE = 64
TERM_NUMBERS = ("p", "q", "odds_haldane", "odds_low", "odds_high", "null_share", "q_parent_child")
GENES_SHOWN, CELLS_SHOWN, LABELS_SHOWN, TERMS_SHOWN, PARTNERS_SHOWN, EDGES_SHOWN = 25, 15, 12, 40, 10, 400

Rows = dict[int, list[list[Any]]]
"""Rows of each feature that has any."""


def feature_records(inputs: SiteInputs, key: str) -> dict[int, dict[str, Any]]:
    """Records of a range of features, by number; JSON values."""
    tables = inputs.features
    numbers = tables.table("features", [key])["feature"].tolist()
    parts: dict[str, Rows] = {
        "genes": _genes(tables.table("top_genes", [key])),
        "cells": _cells(tables.table("top_cells", [key])),
        "labels": _labels(tables.table("labels", [key])),
        "bins": _bins(tables.table("histograms", [key])),
        "partners": _partners(tables.table("partners", [key])),
    }
    terms = inputs.terms(key)
    if terms is not None and inputs.enrichment is not None:
        parts["terms"] = _terms(terms, inputs.systems)
        parts["edges"] = _edges(inputs.enrichment.table("edges", [key]))
    hierarchies = {} if terms is None else trees(terms, inputs.hierarchies)
    summaries = {} if inputs.described is None else _summaries(inputs.described, numbers)
    matches = {} if inputs.others is None else inputs.others.of_features(numbers)
    near = {} if inputs.neighbours is None else _near(inputs.neighbours, numbers)
    records = {}
    for feature in numbers:
        record: dict[str, Any] = {name: rows.get(feature, []) for name, rows in parts.items()}
        if feature in summaries:
            record["summary"] = summaries[feature]
        if feature in matches:
            record["others"] = matches[feature]
        if feature in near:
            record["near"] = near[feature]
        if feature in hierarchies:
            record["trees"] = hierarchies[feature]
        if feature in inputs.steering_effects:
            record["steering"] = inputs.steering_effects[feature]
        records[int(feature)] = record
    return records


def _cut(table: pd.DataFrame, limit: int, *columns: list[Any]) -> Rows:
    """The first `limit` rows of each feature; `columns` are as long as the table, which is by feature."""
    feature = table["feature"].to_numpy(np.int64)
    starts = segments(feature)
    stops = np.minimum(np.append(starts[1:], feature.size), starts + limit)
    return {
        number: [list(row) for row in zip(*(column[start:stop] for column in columns), strict=True)]
        for number, start, stop in zip(feature[starts].tolist(), starts.tolist(), stops.tolist(), strict=True)
    }


def _text(column: pd.Series) -> list[str]:
    return column.astype(str).tolist()


def _genes(table: pd.DataFrame) -> Rows:
    """name, mean, lift, activation x expression, tokens fired on, tokens, the score that ranks."""
    top = table[table["rank"] < GENES_SHOWN]
    scores = (rounded(top[name]) for name in ("mean", "lift", "expression"))
    counts = (top[name].tolist() for name in ("n", "occurrences"))
    return _cut(top, GENES_SHOWN, _text(top["gene_name"]), *scores, *counts, rounded(top["score"], 3))


def _cells(table: pd.DataFrame) -> Rows:
    """name, label or None, largest activation."""
    top = table[table["rank"] < CELLS_SHOWN]
    labels = top["label"].tolist() if "label" in top else [None] * len(top)
    named = [None if label is None or label != label else str(label) for label in labels]
    return _cut(top, CELLS_SHOWN, _text(top["cell_name"]), named, rounded(top["max_activation"]))


def _labels(table: pd.DataFrame) -> Rows:
    """label, cells firing, cells, odds ratio, rate of Fisher's test, AUROC, rate of the AUROC; best first."""
    order = np.lexsort((-table["auroc"].fillna(-1.0), table["feature"]))
    top = table.iloc[order]
    scores = (rounded(top[name], 3) for name in ("odds_ratio", "fdr", "auroc", "rank_fdr"))
    counts = (top[name].tolist() for name in ("cells_firing", "cells"))
    return _cut(top, LABELS_SHOWN, _text(top["label"]), *counts, *scores)


def _bins(table: pd.DataFrame) -> Rows:
    """low, high, tokens."""
    return _cut(table, len(table), rounded(table["low"]), rounded(table["high"]), table["n_tokens"].tolist())


def _partners(table: pd.DataFrame) -> Rows:
    """feature, correlation, cosine of decoder directions, tokens both fire on."""
    top = table[table["rank"] < PARTNERS_SHOWN]
    scores = (rounded(top[name], 3) for name in ("correlation", "cosine"))
    return _cut(top, PARTNERS_SHOWN, top["partner"].tolist(), *scores, top["joint"].tolist())


def _terms(table: pd.DataFrame, systems: Mapping[tuple[str, str], str]) -> Rows:
    """group, source, id, name, significant, most specific, overlap, genes of the term, shared genes, organ
    systems, then TERM_NUMBERS; significant terms first, then by rate."""
    order = np.lexsort((table["p"], table["q"], ~table["significant"].to_numpy(bool), table["feature"]))
    top = table.iloc[order]
    names = (_text(top[name]) for name in ("group", "source", "term_id", "term"))
    states = (top[name].astype(bool).tolist() for name in ("significant", "most_specific"))
    counts = (top[name].tolist() for name in ("overlap", "term_genes"))
    numbers = (rounded(top[name], 3) for name in TERM_NUMBERS)
    keys = zip(top["source"].tolist(), top["term_id"].tolist(), strict=True)
    above = [systems.get(key, "") for key in keys]
    return _cut(top, TERMS_SHOWN, *names, *states, *counts, _text(top["genes"]), above, *numbers)


def _edges(table: pd.DataFrame) -> Rows:
    """gene, gene, score, module."""
    numbers = (table[name].astype(int).tolist() for name in ("score", "module"))
    return _cut(table, EDGES_SHOWN, _text(table["gene_a"]), _text(table["gene_b"]), *numbers)


def _summaries(table: pd.DataFrame, numbers: list[int]) -> dict[int, dict[str, Any]]:
    """Name with its confidence, basis and maker; of the network, where there is one: edges, expected edges,
    p, q, genes."""
    chosen = table[table["feature"].isin(numbers)]
    named = ("label", "label_confidence", "label_basis", "label_by")
    found = {
        int(feature): {"name": name, "confidence": confidence, "basis": basis, "by": by}
        for feature, name, confidence, basis, by in zip(
            chosen["feature"], *(chosen[column].tolist() for column in named), strict=True
        )
    }
    if "edges" in chosen:
        known = chosen[chosen["edges"].notna()]
        scores = (rounded(known[name], 3) for name in ("edges_expected", "edges_p", "edges_q"))
        counts = (known[name].astype(int).tolist() for name in ("edges", "network_genes"))
        edges, genes = counts
        for feature, *network in zip(known["feature"].tolist(), edges, *scores, genes, strict=True):
            found[int(feature)]["network"] = network
    return found


def _near(neighbours: Partners, numbers: list[int]) -> Rows:
    """feature, cosine of the directions they write."""
    found = {}
    for feature in numbers:
        cosines = rounded(neighbours.similarity_FC[feature], 3)
        rows = zip(neighbours.index_FC[feature].tolist(), cosines, strict=True)
        found[feature] = [[other, cosine] for other, cosine in rows if cosine and cosine > 0]
    return found
