"""Effects as tables: by version and metric, by gene; intervals over cells.

    variants.parquet   one row per version of a cell: its kind, experiment, dose and edits
    summary.parquet    rows (variant, metric): mean over cells, bootstrap interval, difference from the edit
    genes.parquet      rows (variant, gene): predicted value, change, interval
    cells/             rows (variant, cell): every metric of every cell

Legend: C cells, X columns (version x metric), B bootstrap replicates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.interpret.runs import Float32, Float64
from engine.interpret.steering.design import Design
from engine.interpret.steering.totals import GeneSums

REPLICATES = 1000
REPLICATES_AT_ONCE = 50
LEVEL = 0.95
NORMAL_975 = 1.959964
"""97.5% quantile of the standard normal distribution."""


@dataclass(frozen=True)
class EffectTables:
    """cells: every metric by version and cell. The others: module docstring."""

    cells: pd.DataFrame
    genes: pd.DataFrame
    summary: pd.DataFrame
    variants: pd.DataFrame


def cell_table(values_VCM: Float32, metrics: Sequence[str], cells: npt.NDArray[np.int64]) -> pd.DataFrame:
    """Rows (variant, cell) of all versions but the untouched one."""
    n_versions, n_cells, _ = values_VCM.shape
    columns: dict[str, Any] = {
        "variant": np.repeat(np.arange(1, n_versions, dtype=np.int32), n_cells),
        "cell": np.tile(cells, n_versions - 1),
    }
    flat = values_VCM[1:].reshape(-1, len(metrics))
    return pd.DataFrame(columns | {name: flat[:, number] for number, name in enumerate(metrics)})


def variant_table(design: Design) -> pd.DataFrame:
    """One row per version; `edits` in activations."""
    return pd.DataFrame(
        {
            "variant": np.arange(len(design.variants), dtype=np.int32),
            "kind": [variant.kind for variant in design.variants],
            "experiment": [
                design.experiments[variant.experiment].name if variant.experiment >= 0 else None
                for variant in design.variants
            ],
            "dose": [variant.dose for variant in design.variants],
            "compared_with": [design.reference(number) for number in range(len(design.variants))],
            "edits": [
                ", ".join(
                    f"{edit.feature} {edit.op}" + ("" if edit.op == "ablate" else f" {edit.value:.6g}")
                    for edit in variant.edits
                )
                for variant in design.variants
            ],
        }
    )


def gene_table(
    sums: GeneSums,
    design: Design,
    quantities: Sequence[str],
    gene_id_G: Sequence[str],
    gene_name_G: Sequence[str],
) -> pd.DataFrame:
    """Rows (variant, gene) of the genes seen: `base_Q` (untouched), `change_Q`, and the 95% interval of the
    mean change over the cells that have the gene, `low_Q` to `high_Q` (normal; NaN with one cell)."""
    seen = np.flatnonzero(sums.count_G)
    count = sums.count_G[seen].astype(np.float64)
    parts = []
    for number, variant in enumerate(design.variants):
        if variant.kind == "base":
            continue
        targets = design.experiments[variant.experiment].targets if variant.experiment >= 0 else ()
        columns: dict[str, Any] = {
            "variant": np.full(len(seen), number, np.int32),
            "gene": seen,
            "gene_id": np.asarray(gene_id_G, dtype=object)[seen],
            "gene_name": np.asarray(gene_name_G, dtype=object)[seen],
            "n_cells": sums.count_G[seen],
            "is_target": np.isin(seen, targets),
        }
        for quantity, name in enumerate(quantities):
            mean = sums.change_VQG[number, quantity, seen] / count
            square = sums.square_VQG[number, quantity, seen] / count - mean**2
            error = np.sqrt(np.maximum(square, 0) / np.where(count > 1, count - 1, np.nan))
            columns |= {
                f"base_{name}": sums.base_QG[quantity, seen] / count,
                f"change_{name}": mean,
                f"low_{name}": mean - NORMAL_975 * error,
                f"high_{name}": mean + NORMAL_975 * error,
            }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def summary_table(
    cells: pd.DataFrame, metrics: Sequence[str], design: Design, *, seed: int, replicates: int = REPLICATES
) -> pd.DataFrame:
    """Rows (variant, metric): the mean over cells and its 95% bootstrap interval over cells. For a control
    also `difference`: the edit of the same dose minus the control, cell by cell, with its interval."""
    values = {
        number: rows.sort_values("cell")[list(metrics)].to_numpy(np.float32)
        for number, rows in cells.groupby("variant")
    }
    n_versions = len(design.variants)
    none = np.zeros((0, len(metrics)), np.float32)  # where no cell has a token
    means_VCM = np.stack([values.get(number, none) for number in range(1, n_versions)])
    edit_of = [_edit_of(design, number) for number in range(1, n_versions)]
    differences_VCM = np.stack(
        [
            np.full_like(means_VCM[0], np.nan) if edit is None else means_VCM[edit - 1] - means_VCM[at]
            for at, edit in enumerate(edit_of)
        ]
    )
    shape = (n_versions - 1, len(metrics))
    columns: dict[str, Any] = {
        "variant": np.repeat(np.arange(1, n_versions, dtype=np.int32), shape[1]),
        "metric": np.tile(np.asarray(metrics, dtype=object), shape[0]),
        "n_cells": np.isfinite(means_VCM).sum(axis=1).ravel(),
    }
    for prefix, values_VCM in (("", means_VCM), ("difference_", differences_VCM)):
        n_cells = values_VCM.shape[1]
        values_CX = values_VCM.transpose(1, 0, 2).reshape(n_cells, -1)
        mean_X, low_X, high_X = bootstrap(values_CX, seed=seed, replicates=replicates)
        name = prefix.rstrip("_") or "mean"
        columns |= {name: mean_X, f"{prefix}low": low_X, f"{prefix}high": high_X}
    return pd.DataFrame(columns)


def _edit_of(design: Design, number: int) -> int | None:
    """The edit that a control stands beside."""
    control = design.variants[number]
    if control.kind not in ("wrong_sign", "random_feature", "noise"):
        return None
    return next(
        at
        for at, variant in enumerate(design.variants)
        if variant.kind == "edit" and (variant.experiment, variant.dose) == (control.experiment, control.dose)
    )


def bootstrap(
    values_CX: Float32, *, seed: int, replicates: int = REPLICATES
) -> tuple[Float64, Float64, Float64]:
    """Mean of every column over cells, and its 95% percentile interval when cells are drawn anew.

    NaN counts as a cell without a value; a column of NaN, or no cell at all, gives NaN for everything.
    """
    there_CX = np.isfinite(values_CX)
    filled_CX = np.where(there_CX, values_CX, 0).astype(np.float64)
    weight_CX = there_CX.astype(np.float64)
    n_cells = len(values_CX)
    if n_cells == 0:
        nothing_X = np.full(values_CX.shape[1], np.nan)
        return nothing_X, nothing_X, nothing_X
    with np.errstate(invalid="ignore"):
        mean_X = filled_CX.sum(axis=0) / weight_CX.sum(axis=0)
        drawn_BX = np.concatenate(
            [
                (times_BC @ filled_CX) / (times_BC @ weight_CX)
                for times_BC in _draws(n_cells, seed, replicates)
            ]
        )
    known_X = ~np.isnan(mean_X)
    bounds_2X = np.full((2, len(mean_X)), np.nan)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    bounds_2X[:, known_X] = np.nanquantile(drawn_BX[:, known_X], tails, axis=0)
    return mean_X, bounds_2X[0], bounds_2X[1]


def _draws(n_cells: int, seed: int, replicates: int) -> Iterator[Float64]:
    """How often each cell is drawn in each replicate, float64 blocks [B, C]."""
    random = np.random.default_rng(seed)
    for start in range(0, replicates, REPLICATES_AT_ONCE):
        n_draws = min(REPLICATES_AT_ONCE, replicates - start)
        drawn = random.integers(0, n_cells, (n_draws, n_cells)) + n_cells * np.arange(n_draws)[:, None]
        yield (
            np.bincount(drawn.ravel(), minlength=n_draws * n_cells)
            .reshape(n_draws, n_cells)
            .astype(np.float64)
        )


def metrics_of(
    summary: pd.DataFrame, variants: pd.DataFrame, design: Design, gene_name_G: Sequence[str]
) -> dict[str, Any]:
    """metrics.json: by experiment, every dose and its controls with the mean and interval of each metric."""

    def numbers(variant: int) -> dict[str, Any]:
        rows = summary[summary["variant"] == variant].drop(columns=["variant"]).set_index("metric")
        return {
            str(metric): {name: None if pd.isna(value) else value for name, value in row.items()}
            for metric, row in rows.to_dict("index").items()
        }

    rows = variants.to_dict("records")
    body: dict[str, Any] = {"hook": design.hook, "mode": design.mode, "experiments": []}
    if design.mode == "reconstruction":
        body["reconstruction"] = numbers(1)
    for number, experiment in enumerate(design.experiments):
        versions = [
            {"kind": row["kind"], "dose": row["dose"], "edits": row["edits"], **numbers(row["variant"])}
            for row, variant in zip(rows, design.variants, strict=True)
            if variant.experiment == number
        ]
        targets = [gene_name_G[token] for token in experiment.targets]
        body["experiments"].append(
            {
                "edits": experiment.name,
                "targets": targets,
                "dose_response": dose_response(versions),
                "versions": versions,
            }
        )
    return body


def dose_response(versions: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By kind of version and metric: how much the mean changes per dose (least squares over the doses).

    Empty with one dose; metrics without a mean are left out.
    """
    found: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(version["kind"] for version in versions):
        of_kind = [version for version in versions if version["kind"] == kind]
        doses = np.array([version["dose"] for version in of_kind])
        if len(np.unique(doses)) < 2:
            continue
        spread = doses - doses.mean()
        for metric, first in of_kind[0].items():
            means = [version[metric]["mean"] for version in of_kind] if isinstance(first, dict) else [None]
            if None not in means:
                found.setdefault(kind, {})[metric] = float(spread @ np.array(means) / (spread @ spread))
    return found
