"""Can a label be read from few features? Sparse logistic probes on cells held out, beside dense ones.

For every label (one against the rest) the k features whose means differ most between its cells and the
others (in standard deviations, on training cells alone) go into a logistic regression; k is 1, 5 and 16. Held
out are whole groups of cells (donors, datasets) where labels occur in several, else cells. In the manner of
sae-probes (arXiv 2502.16681), whose k-sparse variant is what survives audits of SAE metrics.

Shape legend: C cells, F features, D width, L labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from engine.interpret.runs import Float32, Float64, Int64

SPARSITIES = (1, 5, 16)
FOLDS = 5
FEWEST_CELLS = 10
"""Cells of a label: a probe tested on one or two says nothing."""
MOST_LABELS = 20
DENSE = "all"
# Ridge penalty of the probes, on standardised features: with D near the number of cells a free fit would
# separate anything.
_INVERSE_PENALTY = 0.1


@dataclass(frozen=True)
class Split:
    """Folds of cells: train and test rows. held_out: "groups" or "cells"."""

    folds: tuple[tuple[Int64, Int64], ...]
    held_out: str


def split(label_C: Int64, group_C: Int64, seed: int) -> Split:
    """Whole groups are held out if at least two labels occur in two or more of them, else random cells."""
    from sklearn.model_selection import GroupKFold, StratifiedKFold

    spread = pd.Series(group_C).groupby(label_C).nunique()
    cells = np.zeros(len(label_C))
    n_groups = len(np.unique(group_C))
    if int((spread >= 2).sum()) >= 2:
        maker = GroupKFold(min(FOLDS, n_groups))
        return Split(tuple(maker.split(cells, label_C, group_C)), "groups")
    with warnings.catch_warnings():
        # Of labels rarer than the folds some folds have no cell; they are scored in the others.
        warnings.simplefilter("ignore", UserWarning)
        maker = StratifiedKFold(min(FOLDS, max(len(label_C), 2)), shuffle=True, random_state=seed)
        return Split(tuple(maker.split(cells, label_C)), "cells")


@dataclass(frozen=True)
class ProbedCells:
    """What probes are given of each cell: x_CD, the mean state of its genes; mean codes by dictionary; its
    label. k_pca: principal components of x_CD that one of the probes reads."""

    x_CD: Float32
    codes: Mapping[str, sparse.csr_matrix]
    label_C: Int64
    folds: Split
    k_pca: int

    def labels(self) -> list[int]:
        """The commonest labels with enough cells, commonest first."""
        cells_L = np.bincount(self.label_C)
        order = np.argsort(-cells_L, kind="stable")[:MOST_LABELS]
        return [int(label) for label in order if FEWEST_CELLS <= cells_L[label] < len(self.label_C)]


class Score(NamedTuple):
    """One probe on the cells one fold holds out. k: features it reads, or "all"."""

    representation: str
    k: str
    label: int
    fold: int
    auroc: float
    average_precision: float


def scores_of_label(cells: ProbedCells, label: int) -> list[Score]:
    """All probes of one label on all folds that hold cells of it out.

    Representations are the dictionaries, "neurons_dense" (x_CD itself, with k of its columns or all) and
    "pca_dense" (its largest principal components on training cells).
    """
    wanted_C, scores = cells.label_C == label, []
    for fold, (train, test) in enumerate(cells.folds.folds):
        if not (0 < wanted_C[train].sum() < len(train) and 0 < wanted_C[test].sum() < len(test)):
            continue
        for name, k, *found in _scores(cells, wanted_C, train, test):
            scores.append(Score(name, str(k), label, fold, *found))
    return scores


def probe_table(scores: Iterable[Score], labels: Sequence[str]) -> pd.DataFrame:
    """Rows (representation, k, label): AUROC and average precision on held-out cells, means over folds."""
    table = pd.DataFrame(scores, columns=list(Score._fields))
    table["label"] = table["label"].map(lambda label: labels[label])
    grouped = table.groupby(["representation", "k", "label"], sort=False)
    found = grouped[["auroc", "average_precision"]].mean()
    return found.join(grouped["fold"].nunique().rename("folds")).reset_index()


def _scores(
    cells: ProbedCells, wanted_C: np.ndarray, train: Int64, test: Int64
) -> Iterator[tuple[str, int | str, float, float]]:
    for name, matrix in cells.codes.items():
        order = most_different(matrix[train], wanted_C[train])
        for k in SPARSITIES:
            chosen = matrix[:, order[:k]].toarray()
            yield name, k, *_held_out(chosen, wanted_C, train, test)
    x_CD = cells.x_CD
    dense_order = most_different(sparse.csr_matrix(x_CD[train]), wanted_C[train], centred=True)
    for k in SPARSITIES:
        yield "neurons_dense", k, *_held_out(x_CD[:, dense_order[:k]], wanted_C, train, test)
    yield "neurons_dense", DENSE, *_held_out(x_CD, wanted_C, train, test)
    components_CJ = _components(x_CD, train, cells.k_pca)
    yield "pca_dense", components_CJ.shape[1], *_held_out(components_CJ, wanted_C, train, test)


def most_different(matrix: sparse.csr_matrix, wanted_C: np.ndarray, *, centred: bool = False) -> Int64:
    """Features by falling difference of means inside and outside a label, in standard deviations; features
    that never vary come last. centred: squares are of x - mean (for values far from 0)."""
    wanted_C = wanted_C.astype(np.float64)
    inside, outside = wanted_C.sum(), len(wanted_C) - wanted_C.sum()
    if centred:
        matrix = sparse.csr_matrix(matrix - np.asarray(matrix.mean(axis=0)))
    sum_F = np.asarray(matrix.sum(axis=0, dtype=np.float64)).ravel()
    inside_F = np.asarray(matrix.T @ wanted_C).ravel()
    squares_F = np.asarray(matrix.multiply(matrix).sum(axis=0, dtype=np.float64)).ravel()
    spread_F = np.sqrt(np.maximum(squares_F / len(wanted_C) - (sum_F / len(wanted_C)) ** 2, 0))
    gap_F = np.abs(inside_F / inside - (sum_F - inside_F) / outside)
    effect_F = np.divide(gap_F, spread_F, where=spread_F > 1e-12, out=np.zeros_like(gap_F))
    order: Int64 = np.argsort(-effect_F, kind="stable")
    return order


def _held_out(x_CF: np.ndarray, wanted_C: np.ndarray, train: Int64, test: Int64) -> tuple[float, float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score, roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(C=_INVERSE_PENALTY, class_weight="balanced", max_iter=500)
    probe = make_pipeline(StandardScaler(), regression)
    score_C = probe.fit(x_CF[train], wanted_C[train]).decision_function(x_CF[test])
    return (
        float(roc_auc_score(wanted_C[test], score_C)),
        float(average_precision_score(wanted_C[test], score_C)),
    )


def _components(x_CD: Float32, train: Int64, k: int) -> Float64:
    """All cells in the principal components of the training cells [C, k]."""
    mean_D = x_CD[train].mean(axis=0, dtype=np.float64)
    _, _, directions = np.linalg.svd(x_CD[train] - mean_D, full_matrices=False)
    components: Float64 = (x_CD - mean_D) @ directions[:k].T
    return components
