"""What the demo page shows, as plain values; `build.render` turns it into HTML.

Shape legend: C cells, F features.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from engine.interpret.runs import Float32
from engine.interpret.tables import Tables

GENES_SHOWN = 12
CELLS_SHOWN = 8
LABELS_SHOWN = 6


@dataclass(frozen=True)
class Step:
    """One house of the street: what it is called, its size, in what unit."""

    name: str
    figure: str
    unit: str


@dataclass(frozen=True)
class Series:
    name: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Curve:
    """One plot; `start` pins the lower end of the y axis, `summary` is what a screen reader says."""

    title: str
    note: str
    x_label: str
    series: tuple[Series, ...]
    summary: str
    start: float | None = None


@dataclass(frozen=True)
class Measure:
    """A figure with what it means beside it; `ours` marks the model's own among the baselines."""

    name: str
    figure: str
    note: str
    ours: bool = False


@dataclass(frozen=True)
class Command:
    command: str
    purpose: str


@dataclass(frozen=True)
class CellMap:
    """Cells in store order: name, label number (-1 without one), and place on the map, float32 [C, 2]."""

    names: Sequence[str]
    labels: Sequence[str]
    label_of_cell: Sequence[int]
    place_C2: Float32


@dataclass(frozen=True)
class TextSearch:
    """One question in words. found: rows of the cells, best first. right: whether each is of the kind asked
    for. verdict: of the best one, as `search` gives it.
    """

    question: str
    wanted: str
    found: Sequence[int]
    right: Sequence[bool]
    verdict: str


@dataclass(frozen=True)
class PageContent:
    title: str
    lead: str
    footer: str
    quality_note: str
    lineage: str
    """Identity of what the page was made from, kept in its head (see `build.lineage_of`)."""
    label_column: str
    street: tuple[Step, ...]
    cells: CellMap
    tables: Tables
    peak_CF: Float32
    """Largest activation of each feature in each cell."""
    curves: tuple[Curve, ...]
    measures: tuple[Measure, ...]
    commands: tuple[Command, ...]
    searches: tuple[TextSearch, ...] = ()
    search_measures: tuple[Measure, ...] = ()
    search_note: str = ""


def as_json(content: PageContent) -> dict[str, Any]:
    """The content as the page's scripts expect it (page/content.js)."""
    entries = feature_entries(content.tables, content.cells.labels)
    rows = [entry["feature"] for entry in entries]
    return {
        "labelColumn": content.label_column,
        "labels": list(content.cells.labels),
        "nCells": len(content.cells.names),
        "nFeatures": len(content.tables.features),
        "nSilent": len(content.tables.features) - len(entries),
        "street": [asdict(step) for step in content.street],
        "cells": {
            "name": list(content.cells.names),
            "label": [int(label) for label in content.cells.label_of_cell],
            "x": content.cells.place_C2[:, 0].round(3).tolist(),
            "y": content.cells.place_C2[:, 1].round(3).tolist(),
        },
        "features": entries,
        "levels": base64.b64encode(byte_levels(content.peak_CF[:, rows])).decode(),
        "curves": [
            {**asdict(curve), "xLabel": curve.x_label, "from": curve.start} for curve in content.curves
        ],
        "measures": [asdict(measure) for measure in content.measures],
        "commands": [asdict(command) for command in content.commands],
    }


def byte_levels(peak_CF: Float32) -> bytes:
    """Activations as one byte each, feature by feature: 0 is silent, 1 to 255 a share of the feature's
    maximum."""
    largest_F = peak_CF.max(axis=0, initial=0.0)
    share_CF = peak_CF / np.where(largest_F > 0, largest_F, 1.0)
    levels_CF = np.where(peak_CF > 0, 1 + np.rint(share_CF * 254), 0).astype(np.uint8)
    return np.ascontiguousarray(levels_CF.T).tobytes()


def feature_entries(tables: Tables, labels: Sequence[str]) -> list[dict[str, Any]]:
    """One entry per feature that fired, with its strongest genes, labels and cells."""
    alive = tables.features[tables.features["n_tokens"] > 0]
    genes = _by_feature(tables.top_genes[tables.top_genes["rank"] < GENES_SHOWN])
    cells = _by_feature(tables.top_cells[tables.top_cells["rank"] < CELLS_SHOWN])
    by_label = _by_feature(tables.labels)
    number = {label: code for code, label in enumerate(labels)}
    return [
        {
            "row": row,
            "feature": fact["feature"],
            "density": fact["density"],
            "nCells": fact["n_cells"],
            "max": _rounded(fact["max_activation"]),
            "mean": _rounded(fact["mean_activation"]),
            "entropy": round(fact["gene_entropy"], 2),
            "genes": [_gene_entry(gene) for gene in _records(genes.get(fact["feature"]))],
            "labels": _label_entries(by_label.get(fact["feature"]), number),
            "cells": [
                [cell["cell"], _rounded(cell["max_activation"])]
                for cell in _records(cells.get(fact["feature"]))
            ],
        }
        for row, fact in enumerate(_records(alive))
    ]


def _gene_entry(gene: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": gene["gene_name"],
        "score": _rounded(gene["score"]),
        "n": gene["n"],
        "of": gene["occurrences"],
    }


def _label_entries(rows: pd.DataFrame | None, number: dict[str, int]) -> list[dict[str, Any]]:
    """The labels a feature ranks highest; the first is the best label of the feature table."""
    if rows is None:
        return []
    order = np.lexsort((-rows["auroc"].fillna(0.0), rows["rank_p_value"]))
    best, others = rows.iloc[order[:1]], rows.iloc[order[1:]].sort_values("auroc", ascending=False)
    return [
        {
            "label": number[str(row["label"])],
            "hits": row["cells_firing"],
            "of": row["cells"],
            "odds": _odds(row["odds_ratio"]),
            "fisherFdr": float(f"{row['fdr']:.3g}"),
            "fdr": float(f"{row['rank_fdr']:.3g}"),
            "auroc": None if math.isnan(row["auroc"]) else round(row["auroc"], 4),
        }
        for row in _records(pd.concat([best, others]).head(LABELS_SHOWN))
    ]


def _by_feature(table: pd.DataFrame) -> dict[Any, pd.DataFrame]:
    return dict(iter(table.groupby("feature", sort=False)))


def _records(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Rows as plain Python values."""
    return (
        []
        if table is None
        else [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    )


def _rounded(number: float) -> float:
    """Five digits: more would only make the file longer."""
    return float(f"{number:.5g}")


def _odds(ratio: float) -> float | str | None:
    """JSON has no infinity and no NaN."""
    if math.isnan(ratio):
        return None
    return "inf" if math.isinf(ratio) else float(f"{ratio:.4g}")
