"""Two files other tools read, in the schema of superkaiba/sae-genomics (scripts/04_validate_features.py).

    feature_validations.json   {"<feature>": {"genes": [...], "n_genes", "enrichments": {source: [at most 20
                               terms]}, "n_enrichments_total"}}
    validation_summary.csv     one row per feature

Only significant terms are listed, with the false discovery rate over all features and all terms of the
source: the original's rate came from the tests that had already shared two genes, which is none.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from engine.interpret.enrichment.rows import GENE_SEPARATOR

LISTED = 20
COLUMNS = (
    "feature_id", "n_genes", "n_enrichments_total", "n_gencc", "n_hpo_phenotypes", "n_hpo_diseases", "n_gwas",
    "n_orphanet", "top_term", "top_p_value", "top_database",
)  # fmt: skip
COUNTED = {
    "n_gencc": "gencc",
    "n_hpo_phenotypes": "hpo_phenotypes",
    "n_hpo_diseases": "hpo_diseases",
    "n_gwas": "gwas",
    "n_orphanet": "orphanet",
}
ORIGINAL_NAMES = {"hpo": "hpo_phenotypes", "hpo-diseases": "hpo_diseases"}
"""Our names of sources -> the original's."""


def validations(terms: pd.DataFrame, genes: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    """Entries of the features in `genes` (feature -> its list), from rows of the table `terms`."""
    significant = terms[terms["significant"]].sort_values(["feature", "source", "rank"])
    of_feature = dict(iter(significant.groupby("feature")))
    entries = {}
    for feature, names in genes.items():
        rows = of_feature.get(feature)
        entries[str(feature)] = {
            "genes": list(names),
            "n_genes": len(names),
            "enrichments": {} if rows is None else _enrichments(rows),
            "n_enrichments_total": 0 if rows is None else len(rows),
        }
    return entries


def _enrichments(rows: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    return {
        ORIGINAL_NAMES.get(str(source), str(source)): [
            _entry(row) for row in found.head(LISTED).to_dict("records")
        ]
        for source, found in rows.groupby("source", sort=True)
    }


def _entry(row: Mapping[Any, Any]) -> dict[str, Any]:
    odds = float(row["odds_ratio"])
    return {
        "term_id": row["term_id"],
        "term_name": row["term"],
        "p_value": float(row["p"]),
        "p_value_adjusted": float(row["q"]),
        # JSON has no infinity: then the ratio with half a gene added to every cell stands in.
        "odds_ratio": odds if np.isfinite(odds) else float(row["odds_haldane"]),
        "genes_in_query": int(row["list_genes"]),
        "genes_in_term": int(row["term_genes"]),
        "genes_overlap": int(row["overlap"]),
        "genes_overlap_list": sorted(row["genes"].split(GENE_SEPARATOR)),
        "background_size": int(row["background"]),
        "source": ORIGINAL_NAMES.get(row["source"], row["source"]),
        "significant": True,
    }


def summary(entries: Mapping[str, Any]) -> bytes:
    """`validation_summary.csv` of those entries; the top term is the one with the smallest rate of all."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for feature, entry in entries.items():
        found = entry["enrichments"]
        best = min(
            (rows[0] for rows in found.values()),
            key=lambda row: (row["p_value_adjusted"], row["p_value"]),
            default=None,
        )
        writer.writerow(
            [
                feature,
                entry["n_genes"],
                entry["n_enrichments_total"],
                *(len(found.get(source, [])) for source in COUNTED.values()),
                *_top(best),
            ]
        )
    return buffer.getvalue().encode()


def _top(best: Mapping[str, Any] | None) -> tuple[Any, Any, Any]:
    return ("", "", "") if best is None else (best["term_name"], best["p_value_adjusted"], best["source"])


def as_json(entries: Mapping[str, Any]) -> bytes:
    return json.dumps(entries, indent=2, allow_nan=False).encode()
