"""The two JSON products have exactly the schema other tools read."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pandas as pd

from engine.interpret.gene_ranking import TableOptions
from engine.interpret.products import cell_associations, gene_associations
from engine.interpret.tables import tabulate
from tests.interpret.small_pass import FEATURES, SmallPass

KEYS = {"top_genes", "n_activations", "top_cells", "cell_types"}


def in_ranges(
    features: pd.DataFrame, table: pd.DataFrame, cut: int = 5
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    yield features[features["feature"] < cut], table[table["feature"] < cut]
    yield features[features["feature"] >= cut], table[table["feature"] >= cut]


def test_gene_file() -> None:
    case = SmallPass.random(0)
    state = case.whole()
    tables = tabulate(state, case.names, TableOptions(top_genes=4))
    entries = json.loads(gene_associations(in_ranges(tables.features, tables.top_genes)))
    assert list(entries) == [str(feature) for feature in range(FEATURES)]
    for feature, entry in enumerate(entries.values()):
        rows = tables.top_genes[tables.top_genes["feature"] == feature]
        assert set(entry) == KEYS
        assert (entry["top_cells"], entry["cell_types"]) == ([], {})
        assert entry["n_activations"] == state.features.cells_F[feature]
        assert entry["top_genes"] == [
            [name, score] for name, score in rows[["gene_name", "score"]].itertuples(index=False)
        ]


def test_cell_file() -> None:
    case = SmallPass.random(0, top_cells=6)
    tables = tabulate(case.whole(), case.names, TableOptions(top_genes=4))
    entries = json.loads(cell_associations(in_ranges(tables.features, tables.top_cells)))
    assert list(entries) == [str(feature) for feature in range(FEATURES)]
    for feature, entry in enumerate(entries.values()):
        rows = tables.top_cells[tables.top_cells["feature"] == feature]
        assert set(entry) == KEYS
        assert (entry["top_genes"], entry["n_activations"]) == ([], 0)
        assert [cell for cell, _ in entry["top_cells"]] == rows["cell"].tolist()
        assert all(isinstance(cell, int) and isinstance(peak, float) for cell, peak in entry["top_cells"])
        assert entry["cell_types"] == rows["label"].dropna().value_counts().to_dict()
    assert entries[str(FEATURES - 1)] == {
        "top_genes": [],
        "n_activations": 0,
        "top_cells": [],
        "cell_types": {},
    }
