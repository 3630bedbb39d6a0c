"""What names cells without reading a text: the majority, marker genes, neighbours in a PCA.

They learn from labelled reference cells: another store, or, cross-fitted, the other half of the measured
cells (other donors where there are several). Legend: C cells, L labels, G genes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import sparse

from engine.retrieval.annotation.expression import ClusterSums, membership
from engine.retrieval.evaluation.inputs import Int64, MeasuredCells, Reference

MARKERS, VARIABLE_GENES, COMPONENTS, NEIGHBOURS = 30, 2000, 50, 15
# Bytes of the dense table that the PCA works on.
_LARGEST_DENSE = 2 << 30

Scores = npt.NDArray[np.float64]
Baseline = Callable[[sparse.csr_matrix, Int64, sparse.csr_matrix, int, int], Scores]


def baseline_scores(cells: MeasuredCells, reference: Reference | None, seed: int) -> dict[str, Scores]:
    """Scores [C, L] of every baseline for the measured cells."""
    n_labels = len(cells.labels)
    found = {name: np.zeros((len(cells), n_labels)) for name in BASELINES}
    for learnt_from, measured in _splits(cells, reference, seed):
        train, label_C = (
            (reference.expression, reference.label_C)
            if reference is not None
            else (cells.expression[learnt_from], cells.label_C[learnt_from])
        )
        for name, baseline in BASELINES.items():
            found[name][measured] = baseline(train, label_C, cells.expression[measured], n_labels, seed)
    return found


def described_split(cells: MeasuredCells, reference: Reference | None) -> str:
    """In words, for whoever reads the numbers."""
    if reference is not None:
        return f"baselines learn from {reference.described_as}"
    if cells.groups is not None:
        n = len(np.unique(cells.groups))
        return f"baselines are cross-fitted over two halves of the {n} values of {cells.group}"
    return "baselines are cross-fitted over two random halves of the cells"


def majority(
    train: sparse.csr_matrix, label_C: Int64, measured: sparse.csr_matrix, n_labels: int, seed: int
) -> Scores:
    """Each label's share of the reference, the same for every cell."""
    return np.tile(np.bincount(label_C, minlength=n_labels) / len(label_C), (measured.shape[0], 1))


def marker_score(
    train: sparse.csr_matrix, label_C: Int64, measured: sparse.csr_matrix, n_labels: int, seed: int
) -> Scores:
    """Mean expression, standardised by the reference, of the 30 genes that mark each label there."""
    sums = ClusterSums.zeros(n_labels, train.shape[1])
    sums.add(membership([label_C.astype(np.int32)], [n_labels]), train)
    size_L = np.maximum(sums.size_N, 1)[:, None]
    mean_LG = sums.sum_NG / size_L
    mean_G = sums.sum_NG.sum(axis=0) / len(label_C)
    deviation_G = np.sqrt(np.maximum(sums.square_NG.sum(axis=0) / len(label_C) - mean_G**2, 1e-6))
    effect_LG = np.where(sums.cells_NG / size_L >= 0.1, (mean_LG - mean_G) / deviation_G, -np.inf)
    best_LK = np.argsort(-effect_LG, axis=1, kind="stable")[:, :MARKERS]
    weight_LG = np.zeros_like(mean_LG)
    np.put_along_axis(weight_LG, best_LK, 1.0 / MARKERS, axis=1)
    weight_LG /= deviation_G
    scores: Scores = np.asarray(measured @ weight_LG.T) - weight_LG @ mean_G
    scores[:, sums.size_N == 0] = scores.min() - 1
    return scores


def pca_neighbours(
    train: sparse.csr_matrix, label_C: Int64, measured: sparse.csr_matrix, n_labels: int, seed: int
) -> Scores:
    """Shares of labels among the 15 nearest reference cells, in 50 components of the 2,000 most variable
    genes.
    """
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KNeighborsClassifier

    square_G = np.asarray(train.multiply(train).mean(axis=0)).ravel()
    variance_G = square_G - np.asarray(train.mean(axis=0)).ravel() ** 2
    most = min(VARIABLE_GENES, max(1, _LARGEST_DENSE // (4 * max(train.shape[0], measured.shape[0]))))
    genes = np.sort(np.argsort(-variance_G, kind="stable")[:most])
    dense = np.asarray(train[:, genes].todense())
    components = max(1, min(COMPONENTS, min(dense.shape) - 1))
    pca = PCA(components, random_state=seed).fit(dense)
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(label_C)), weights="distance")
    neighbours.fit(pca.transform(dense), label_C)
    found = np.zeros((measured.shape[0], n_labels))
    shares = neighbours.predict_proba(pca.transform(np.asarray(measured[:, genes].todense())))
    found[:, neighbours.classes_] = shares
    return found


BASELINES: dict[str, Baseline] = {
    "majority": majority,
    "marker_score": marker_score,
    "pca_knn": pca_neighbours,
}


def _splits(
    cells: MeasuredCells, reference: Reference | None, seed: int
) -> list[tuple[Int64, npt.NDArray[np.bool_]]]:
    """(rows learnt from, cells measured then)."""
    if reference is not None:
        return [(np.empty(0, np.int64), np.ones(len(cells), bool))]
    group_C = np.arange(len(cells)) if cells.groups is None else cells.groups
    names = np.unique(group_C)
    order = np.random.default_rng(seed).permutation(len(names))
    first_C = np.isin(group_C, names[order[: len(names) // 2]])
    return [(np.flatnonzero(~first_C), first_C), (np.flatnonzero(first_C), ~first_C)]
