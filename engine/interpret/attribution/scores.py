"""Attributions of many cells: sums by feature that merge, the table made of them, and how far the ways agree.

Legend: N active pairs, F features, J chosen features, C cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from engine.interpret.runs import Float32, Float64, Int64
from engine.interpret.steering.tables import NORMAL_975, bootstrap


@dataclass
class Scores:
    """What effects add up to. n_cells, value: cells that have the metric, and its sum over them."""

    n_cells: int
    value: float
    sum_F: Float64
    square_F: Float64
    cells_F: Int64
    tokens_F: Int64

    @classmethod
    def empty(cls, n_features: int) -> Scores:
        return cls(
            0,
            0.0,
            np.zeros(n_features),
            np.zeros(n_features),
            np.zeros(n_features, np.int64),
            np.zeros(n_features, np.int64),
        )

    def add(self, cell_N: Int64, feature_N: Int64, effect_N: Float32) -> None:
        """Effects of the active pairs of some cells; a cell comes in one call only."""
        n_features = len(self.sum_F)
        key_N = cell_N * n_features + feature_N
        key, place_N = np.unique(key_N, return_inverse=True)
        effect = np.bincount(place_N, weights=effect_N, minlength=len(key))
        feature = key % n_features
        self.sum_F += np.bincount(feature, effect, n_features)
        self.square_F += np.bincount(feature, effect**2, n_features)
        self.cells_F += np.bincount(feature, minlength=n_features)
        self.tokens_F += np.bincount(feature_N, minlength=n_features)

    def merge(self, other: Scores) -> None:
        """The sum of both, here."""
        self.n_cells, self.value = self.n_cells + other.n_cells, self.value + other.value
        for name in ("sum_F", "square_F", "cells_F", "tokens_F"):
            getattr(self, name).__iadd__(getattr(other, name))

    def strongest(self, n_features: int) -> list[int]:
        """Features with the largest mean effect in size, of those that fired; ties go to the smaller."""
        order = np.lexsort((np.arange(len(self.sum_F)), -np.abs(self.sum_F)))
        return [int(feature) for feature in order[:n_features] if self.tokens_F[feature]]


@dataclass(frozen=True)
class Checked:
    """The features looked at more closely. integrated_J: sum over cells by integrated gradients, of
    `integrated`. exact_CJ: by ablation, of `ablated`, for every cell that has the metric."""

    integrated: tuple[int, ...]
    integrated_J: Float64
    ablated: tuple[int, ...]
    exact_CJ: Float32

    @classmethod
    def joined(cls, parts: Sequence[Checked]) -> Checked:
        """Of all cells, in order. Raises ValueError for none."""
        if not parts:
            raise ValueError("no part to join")
        summed_J = np.sum([part.integrated_J for part in parts], axis=0)
        exact_CJ = np.concatenate([part.exact_CJ for part in parts])
        return cls(parts[0].integrated, summed_J, parts[0].ablated, exact_CJ)


def attribution_table(scores: Scores, checked: Checked, *, seed: int) -> pd.DataFrame:
    """One row per feature that fired, the largest effects first. All effects are what ablating the feature
    changes in the metric, as a mean over the cells that have it.

    effect, low, high: by attribution patching, with its 95% normal interval over cells. integrated: by
    integrated gradients, NaN where not asked. exact, exact_low, exact_high: by ablation, with its 95%
    bootstrap interval over cells, NaN where not asked.
    """
    fired = np.array(scores.strongest(len(scores.sum_F)), dtype=np.int64)
    n_cells = max(scores.n_cells, 1)
    mean = scores.sum_F[fired] / n_cells
    spread = np.maximum(scores.square_F[fired] / n_cells - mean**2, 0)
    error = np.sqrt(spread / max(scores.n_cells - 1, 1))
    table = pd.DataFrame(
        {
            "feature": fired,
            "effect": mean,
            "low": mean - NORMAL_975 * error,
            "high": mean + NORMAL_975 * error,
            "n_cells": scores.cells_F[fired],
            "n_tokens": scores.tokens_F[fired],
        }
    )
    table["integrated"] = (
        table["feature"]
        .map(dict(zip(checked.integrated, checked.integrated_J / n_cells, strict=True)))
        .astype(np.float64)
    )
    exact = bootstrap(checked.exact_CJ, seed=seed) if len(checked.exact_CJ) else [np.zeros(0)] * 3
    for name, values in zip(("exact", "exact_low", "exact_high"), exact, strict=True):
        of_feature = dict(zip(checked.ablated, values, strict=False))
        table[name] = table["feature"].map(of_feature).astype(np.float64)
    return table


def agreement(table: pd.DataFrame) -> dict[str, Any]:
    """Correlation of patching and of integrated gradients with exact ablation, over the ablated features."""
    found: dict[str, Any] = {}
    for name in ("effect", "integrated"):
        rows = table[["exact", name]].dropna()
        enough = len(rows) > 2 and rows["exact"].nunique() > 1 and rows[name].nunique() > 1
        label = "patching" if name == "effect" else "integrated_gradients"
        found[label] = {
            "n_features": len(rows),
            "pearson": float(stats.pearsonr(rows["exact"], rows[name])[0]) if enough else None,
            "spearman": float(stats.spearmanr(rows["exact"], rows[name])[0]) if enough else None,
        }
    return found
