"""Loss recovered and cell types still told apart, from what the chunks of a splicing run found.

recovered = (L_ablated - L_spliced) / (L_ablated - L_base), for zero and for mean ablation, beside all raw
losses. It is not clipped: above 1 or below 0 says something, and where ablation itself changes the loss by
less than its error over cells the ratio means nothing (`gap_z`, in standard errors).

Shape legend: C cells, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from engine.interpret.evaluation.probes import FEWEST_CELLS
from engine.interpret.evaluation.splicing import BASE, MEAN, SCOPES, ZERO, ChunkResult, Losses
from engine.interpret.runs import Float32, Float64, Int64

TOTAL = "loss"
FOLDS = 5


def loss_table(chunks: Sequence[ChunkResult]) -> pd.DataFrame:
    """Rows (dictionary, scope, term): mean losses a hidden gene, and what is recovered. The term "loss" is
    the training loss: the mean of the terms."""
    hidden_C = np.concatenate([chunk.hidden_C for chunk in chunks])
    losses = {key: _with_total(_joined([chunk.losses[key] for chunk in chunks])) for key in chunks[0].losses}
    names = [name for name in dict.fromkeys(name for name, _ in losses) if name not in (BASE, ZERO, MEAN)]
    rows = []
    for name in names:
        for scope in SCOPES:
            for term in losses[BASE, scope]:
                of_term = {state: losses[state, scope][term] for state in (BASE, name, ZERO, MEAN)}
                rows.append(
                    {"dictionary": name, "scope": scope, "term": term} | _row(of_term, name, hidden_C)
                )
    return pd.DataFrame(rows)


def _joined(parts: Sequence[Losses]) -> Losses:
    return {term: np.concatenate([part[term] for part in parts]) for term in parts[0]}


def _with_total(losses: Losses) -> Losses:
    return {TOTAL: np.mean(list(losses.values()), axis=0), **losses}


def _row(losses: Losses, name: str, hidden_C: Int64) -> dict[str, Any]:
    n_hidden = max(int(hidden_C.sum()), 1)
    mean = {key: float(loss_C.sum()) / n_hidden for key, loss_C in losses.items()}
    row = {
        "base": mean[BASE],
        "spliced": mean[name],
        "zero_ablation": mean[ZERO],
        "mean_ablation": mean[MEAN],
    }
    for ablation, called in ((ZERO, "zero"), (MEAN, "mean")):
        gap = mean[ablation] - mean[BASE]
        row[f"recovered_{called}"] = (mean[ablation] - mean[name]) / gap if gap else float("nan")
        row[f"gap_z_{called}"] = _standard_errors(losses[ablation] - losses[BASE])
    reached = bool(np.any(losses[ZERO] != losses[BASE]))
    return {**row, "reached": reached, "n_hidden": n_hidden, "n_cells": int((hidden_C > 0).sum())}


def _standard_errors(gap_C: Float64) -> float:
    """A mean over cells, in its standard errors."""
    spread = float(gap_C.std(ddof=1)) if len(gap_C) > 1 else 0.0
    return float(gap_C.mean()) / (spread / np.sqrt(len(gap_C))) if spread > 0 else float("nan")


def embedding_table(chunks: Sequence[ChunkResult], label_C: Int64 | None, seed: int) -> pd.DataFrame:
    """Rows (replacement, pooling): how far cells move, and how many of their labels a linear probe tells.

    cosine: to the cell's own embedding, of embeddings around their mean. accuracy_same_probe: of a probe
    trained on embeddings of other cells as they are; accuracy_own_probe: of one trained on embeddings made in
    the same way. Both on held-out cells. reached: whether any replacement there can change the embedding.
    label_C: -1 for a cell without a label.
    """
    rows = []
    for pool in dict.fromkeys(pool for _, pool in chunks[0].embeddings):
        base_CD = _stacked(chunks, (BASE, pool))
        reached = not np.array_equal(base_CD, _stacked(chunks, (ZERO, pool)), equal_nan=True)
        for name in dict.fromkeys(name for name, _ in chunks[0].embeddings):
            e_CD = _stacked(chunks, (name, pool))
            row = {"replacement": name, "pool": pool, "reached": reached, "cosine": _cosine(base_CD, e_CD)}
            if label_C is not None:
                row |= _accuracies(base_CD, e_CD, label_C, seed)
            rows.append(row)
    return pd.DataFrame(rows)


def _stacked(chunks: Sequence[ChunkResult], key: tuple[str, str]) -> Float32:
    return np.concatenate([chunk.embeddings[key] for chunk in chunks])


def _cosine(base_CD: Float32, e_CD: Float32) -> float:
    known_C = np.isfinite(base_CD).all(axis=1) & np.isfinite(e_CD).all(axis=1)
    mean_D = base_CD[known_C].mean(axis=0)
    a_CD, b_CD = base_CD[known_C] - mean_D, e_CD[known_C] - mean_D
    norms_C = np.linalg.norm(a_CD, axis=1) * np.linalg.norm(b_CD, axis=1)
    cosine_C = np.divide((a_CD * b_CD).sum(1), norms_C, where=norms_C > 0, out=np.zeros_like(norms_C))
    return float(cosine_C.mean())


def _accuracies(base_CD: Float32, e_CD: Float32, label_C: Int64, seed: int) -> dict[str, float]:
    """Of labels with enough cells; NaN when fewer than two have."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold

    cells_L = np.bincount(label_C[label_C >= 0])
    enough_L = np.append(cells_L >= FEWEST_CELLS, False)
    known_C = enough_L[label_C] & np.isfinite(base_CD).all(axis=1) & np.isfinite(e_CD).all(axis=1)
    base_CD, e_CD, label_C = base_CD[known_C], e_CD[known_C], label_C[known_C]
    if len(np.unique(label_C)) < 2:
        return {"accuracy_same_probe": float("nan"), "accuracy_own_probe": float("nan"), "n_labelled": 0}
    same_C, own_C = label_C.copy(), label_C.copy()
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(base_CD, label_C):
        same_C[test] = _probe(base_CD[train], label_C[train]).predict(e_CD[test])
        own_C[test] = _probe(e_CD[train], label_C[train]).predict(e_CD[test])
    return {
        "accuracy_same_probe": float((same_C == label_C).mean()),
        "accuracy_own_probe": float((own_C == label_C).mean()),
        "balanced_accuracy_same_probe": float(balanced_accuracy_score(label_C, same_C)),
        "balanced_accuracy_own_probe": float(balanced_accuracy_score(label_C, own_C)),
        "n_labelled": len(label_C),
    }


def _probe(e_CD: Float32, label_C: Int64):  # type: ignore[no-untyped-def]
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        # Cut off at 500 iterations the probe is as good a reader as one that went on.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(e_CD, label_C)
