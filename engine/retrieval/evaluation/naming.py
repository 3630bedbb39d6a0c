"""How well cells are named: from scores of labels and the true ones.

Legend: C cells, L labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.retrieval.annotation.zero_shot import softmax
from engine.retrieval.evaluation.inputs import Int64

BINS = 15
THRESHOLDS = (0.0, 0.5, 0.7, 0.9, 0.95, 0.99)

Scores = npt.NDArray[np.floating]


def naming(score_CL: Scores, label_C: Int64) -> dict[str, float]:
    """Shares and means over labels that occur.

    macro_auroc_raw: one against the rest on the scores as they are. macro_auroc_softmax: on scores soft-maxed
    over the labels of each cell first, as torchmetrics does with scores outside [0, 1], and so do
    CellWhisperer's numbers. macro_accuracy is the macro recall, as CellWhisperer calls it.
    """
    # Ties never help: of labels with the same score the true one counts as the last.
    own_C = score_CL[np.arange(len(score_CL)), label_C]
    rank_C = (score_CL >= own_C[:, None]).sum(axis=1)
    best_C = np.where(rank_C == 1, label_C, _best_other(score_CL, label_C))
    return {
        "top_1": float((rank_C <= 1).mean()),
        "top_5": float((rank_C <= 5).mean()),
        **of_predictions(best_C, label_C, score_CL.shape[1]),
        "macro_auroc_raw": float(np.nanmean(aurocs(score_CL, label_C))),
        "macro_auroc_softmax": float(np.nanmean(aurocs(softmax(score_CL), label_C))),
    }


def of_predictions(best_C: Int64, label_C: Int64, n_labels: int) -> dict[str, float]:
    """Macro F1, precision and accuracy (recall) over the labels that occur."""
    table = per_label(best_C, label_C, n_labels)
    present = table["n_cells"] > 0
    means = {name: float(table[name][present].mean()) for name in ("f1", "precision", "accuracy")}
    return {f"macro_{name}": value for name, value in means.items()}


def per_label(best_C: Int64, label_C: Int64, n_labels: int) -> dict[str, npt.NDArray[Any]]:
    """n_cells, precision, accuracy and f1 of every label [L]; zeros where there is nothing to divide."""
    true_L = np.bincount(label_C, minlength=n_labels)
    said_L = np.bincount(best_C, minlength=n_labels)
    right_L = np.bincount(label_C[best_C == label_C], minlength=n_labels)
    precision_L, accuracy_L = right_L / np.maximum(said_L, 1), right_L / np.maximum(true_L, 1)
    f1_L = 2 * right_L / np.maximum(true_L + said_L, 1)
    return {"n_cells": true_L, "precision": precision_L, "accuracy": accuracy_L, "f1": f1_L}


def aurocs(score_CL: Scores, label_C: Int64) -> npt.NDArray[np.float64]:
    """Of each label against the rest [L], by ranks, ties at their mean; NaN for a label without cells."""
    from scipy.stats import rankdata

    found = np.full(score_CL.shape[1], np.nan)
    for label in np.unique(label_C):
        positive = label_C == label
        n, rest = int(positive.sum()), int((~positive).sum())
        if n and rest:
            ranks = rankdata(score_CL[:, label])
            found[label] = (ranks[positive].sum() - n * (n + 1) / 2) / (n * rest)
    return found


def calibration(score_CL: Scores, label_C: Int64) -> dict[str, Any]:
    """Whether probabilities (softmax over the labels) mean what they say.

    ece: expected calibration error over 15 bins of equal width. reliability: per bin its mean confidence,
    accuracy and number of cells. thresholds: what naming only above a confidence leaves, and how much of it
    is right.
    """
    probability_CL = softmax(score_CL)
    confidence_C, best_C = probability_CL.max(axis=1), probability_CL.argmax(axis=1)
    right_C = best_C == label_C
    bin_C = np.minimum((confidence_C * BINS).astype(int), BINS - 1)
    reliability = [
        {
            "confidence": float(confidence_C[bin_C == number].mean()),
            "accuracy": float(right_C[bin_C == number].mean()),
            "n_cells": int((bin_C == number).sum()),
        }
        for number in range(BINS)
        if (bin_C == number).any()
    ]
    ece = sum(row["n_cells"] * abs(row["confidence"] - row["accuracy"]) for row in reliability)
    thresholds = []
    for threshold in THRESHOLDS:
        kept = confidence_C >= threshold
        accuracy = float(right_C[kept].mean()) if kept.any() else None
        thresholds.append({"confidence": threshold, "named": float(kept.mean()), "accuracy": accuracy})
    return {"ece": float(ece / len(label_C)), "reliability": reliability, "thresholds": thresholds}


def _best_other(score_CL: Scores, label_C: Int64) -> Int64:
    """The best label that is not the true one."""
    others = np.array(score_CL, dtype=np.float64)
    others[np.arange(len(others)), label_C] = -np.inf
    best_C: Int64 = others.argmax(axis=1).astype(np.int64)
    return best_C
