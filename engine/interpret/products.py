"""The two JSON files other tools read, in the schema of superkaiba/sae-genomics (feature_analysis.py).

    {"<feature>": {"top_genes": [[name, score], ...], "n_activations": cells that fired,
                   "top_cells": [[cell row, max activation], ...], "cell_types": {type: count among top
                   cells}}}

The gene file leaves the cell fields empty and the cell file the gene fields; every feature from 0 on is
present.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

MAX_TOP_CELLS = 100
"""The most cells a feature lists in the cell file, as the schema has it."""


def gene_associations(features: pd.DataFrame, top_genes: pd.DataFrame) -> bytes:
    """`feature_gene_associations.json`."""
    starts = _edges(top_genes, len(features))
    gene_names, scores = top_genes["gene_name"].tolist(), top_genes["score"].tolist()
    entries = {
        str(feature): _entry(
            top_genes=[[gene_names[row], scores[row]] for row in range(starts[feature], starts[feature + 1])],
            n_activations=n_cells,
        )
        for feature, n_cells in enumerate(features["n_cells"].tolist())
    }
    return _encode(entries)


def cell_associations(features: pd.DataFrame, top_cells: pd.DataFrame) -> bytes:
    """`feature_cell_associations.json`."""
    listed = top_cells[top_cells["rank"] < MAX_TOP_CELLS]
    starts = _edges(listed, len(features))
    cells, peaks = listed["cell"].tolist(), listed["max_activation"].tolist()
    labels = listed["label"].tolist() if "label" in listed else [None] * len(listed)
    entries = {}
    for feature in range(len(features)):
        rows = range(starts[feature], starts[feature + 1])
        counts = Counter(labels[row] for row in rows if labels[row] is not None)
        entries[str(feature)] = _entry(
            top_cells=[[cells[row], peaks[row]] for row in rows], cell_types=dict(counts.most_common())
        )
    return _encode(entries)


def _entry(**filled: Any) -> dict[str, Any]:
    return {"top_genes": [], "n_activations": 0, "top_cells": [], "cell_types": {}} | filled


def _edges(table: pd.DataFrame, n_features: int) -> list[int]:
    """Row at which each feature begins in a table ordered by feature, and the end."""
    edges: list[int] = np.searchsorted(table["feature"].to_numpy(), np.arange(n_features + 1)).tolist()
    return edges


def _encode(entries: dict[str, Any]) -> bytes:
    return json.dumps(entries, allow_nan=False).encode()
