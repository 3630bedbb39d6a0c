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
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

MAX_TOP_CELLS = 100
"""The most cells a feature lists in the cell file, as the schema has it."""


def gene_associations(ranges: Iterable[tuple[pd.DataFrame, pd.DataFrame]]) -> bytes:
    """`feature_gene_associations.json`, from the tables `features` and `top_genes` of each range."""
    return _joined(_gene_entries(features, top_genes) for features, top_genes in ranges)


def cell_associations(ranges: Iterable[tuple[pd.DataFrame, pd.DataFrame]]) -> bytes:
    """`feature_cell_associations.json`, from the tables `features` and `top_cells` of each range."""
    return _joined(_cell_entries(features, top_cells) for features, top_cells in ranges)


def _gene_entries(features: pd.DataFrame, top_genes: pd.DataFrame) -> dict[str, Any]:
    numbers = features["feature"].to_numpy()
    starts = _edges(top_genes, numbers)
    gene_names, scores = top_genes["gene_name"].tolist(), top_genes["score"].tolist()
    return {
        str(feature): _entry(
            top_genes=[[gene_names[row], scores[row]] for row in range(starts[place], starts[place + 1])],
            n_activations=n_cells,
        )
        for place, (feature, n_cells) in enumerate(
            zip(numbers.tolist(), features["n_cells"].tolist(), strict=True)
        )
    }


def _cell_entries(features: pd.DataFrame, top_cells: pd.DataFrame) -> dict[str, Any]:
    listed = top_cells[top_cells["rank"] < MAX_TOP_CELLS]
    numbers = features["feature"].to_numpy()
    starts = _edges(listed, numbers)
    cells, peaks = listed["cell"].tolist(), listed["max_activation"].tolist()
    labels = listed["label"].tolist() if "label" in listed else [None] * len(listed)
    entries = {}
    for place, feature in enumerate(numbers.tolist()):
        rows = range(starts[place], starts[place + 1])
        counts = Counter(labels[row] for row in rows if labels[row] is not None)
        entries[str(feature)] = _entry(
            top_cells=[[cells[row], peaks[row]] for row in rows], cell_types=dict(counts.most_common())
        )
    return entries


def _entry(**filled: Any) -> dict[str, Any]:
    return {"top_genes": [], "n_activations": 0, "top_cells": [], "cell_types": {}} | filled


def _edges(table: pd.DataFrame, numbers: np.ndarray) -> list[int]:
    """Row at which each of the consecutive features begins in a table ordered by feature, and the end."""
    edges: list[int] = np.searchsorted(table["feature"].to_numpy(), [*numbers, numbers[-1] + 1]).tolist()
    return edges


def _joined(ranges: Iterable[dict[str, Any]]) -> bytes:
    """One JSON object; only the text of all ranges is held at once."""
    texts = (json.dumps(entries, allow_nan=False)[1:-1] for entries in ranges)
    return ("{" + ", ".join(text for text in texts if text) + "}").encode()
