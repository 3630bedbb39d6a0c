"""One row per feature: its best term, what kinds of evidence agree, its name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from engine.interpret.enrichment.labels import evidence_of, from_template
from engine.interpret.enrichment.namer import Namer
from engine.interpret.enrichment.rows import feature_table
from engine.interpret.enrichment.study import Study

TERMS_NAMED = 8


def describe_features(
    features: pd.DataFrame,
    study: Study,
    terms: pd.DataFrame,
    genes: Mapping[int, Sequence[str]],
    coherent: pd.DataFrame | None,
    alpha: float,
    namer: Namer | None = None,
) -> pd.DataFrame:
    """One row per feature of `features` (rows of the feature tables).

    terms: rows of the same features; genes: their lists; coherent: `network.coherence` of all lists, None
    without a network. namer: names features with a term or a cell label; None for the template.
    """
    table = feature_table(features["feature"].to_numpy(np.int64), study, terms)
    named = _names_of_terms(terms)
    labels = []
    for fact, row in zip(features.to_dict("records"), table.to_dict("records"), strict=True):
        number = int(row["feature"])
        evidence = evidence_of(
            {str(name): value for name, value in fact.items()},
            {str(name): value for name, value in row.items()},
            tuple(genes.get(number, _top_gene(fact))),
            named.get(number, ()),
            alpha,
        )
        label = from_template(evidence, alpha)
        # Without a term or a label there is nothing a model could name better than its genes do.
        known = evidence.term or evidence.cell_label
        labels.append(namer.name(evidence, label) if namer and known else label)
    table["label"] = [label.name for label in labels]
    table["label_confidence"] = [label.confidence for label in labels]
    table["label_basis"] = [label.basis for label in labels]
    table["label_by"] = [label.made_by for label in labels]
    return table if coherent is None else table.merge(coherent, on="feature", how="left")


def _top_gene(fact: Mapping[Hashable, Any]) -> tuple[str, ...]:
    """Of features too narrow to be tested."""
    gene = fact.get("top_gene")
    return (str(gene),) if gene is not None and not pd.isna(gene) else ()


def _names_of_terms(terms: pd.DataFrame) -> dict[int, tuple[str, ...]]:
    """Significant terms of each feature, by falling significance."""
    ordered = terms[terms["significant"]].sort_values(["feature", "q", "p"], kind="stable")
    named: dict[int, tuple[str, ...]] = {}
    for feature, term in zip(ordered["feature"].tolist(), ordered["term"].tolist(), strict=True):
        named[feature] = (*named.get(feature, ()), term)[:TERMS_NAMED]
    return named
