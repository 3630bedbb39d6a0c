"""The two metrics of cell-eval 0.8 that look at whole populations: E-distances, clusters of perturbations.

Source: github.com/ArcInstitute/cell-eval 0.8.2, whose table is the golden of the tests. The graph is that of
UMAP (McInnes, Healy and Melville 2018, arXiv:1802.03426, section 3.1) with scanpy's defaults, and Leiden is
igraph's as scanpy calls it. Made here because compiling umap-learn takes longer than an evaluation.

Legend: C cells, G genes, P perturbations, K neighbours.
"""

from __future__ import annotations

import random
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.spatial.distance import cdist

from engine.perturbation.rank_sum import Array

REAL_RESOLUTION = 1.0
PREDICTED_RESOLUTIONS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0)
NEIGHBOURS = 15
ITERATIONS = 2
# Of the search for a point's bandwidth, as umap-learn has them.
_HALVINGS, _CLOSE, _LEAST_WIDTH = 64, 1e-5, 1e-3
_ROWS_AT_ONCE = 1024


class EnergyDistance:
    """E-distances of groups of cells from control cells: 2 E|x - y| - E|x - x'| - E|y - y'|, Euclidean, over
    all pairs, a cell with itself among them.
    """

    def __init__(self, control_CG: sparse.csr_matrix) -> None:
        self._control_CG = control_CG.astype(np.float64)
        self._within = _mean_distance(self._control_CG, self._control_CG, same=True)

    def of(self, group_CG: sparse.csr_matrix) -> float:
        """Of log1p-normalised cells, at least one."""
        group_CG = group_CG.astype(np.float64)
        between = _mean_distance(group_CG, self._control_CG, same=False)
        return 2 * between - _mean_distance(group_CG, group_CG, same=True) - self._within


def clustering_agreement(real_PG: Array, predicted_PG: Array) -> float:
    """How alike real and predicted mean profiles are clustered: the adjusted mutual information of Leiden
    clusters, real ones at resolution 1, predicted ones at the best of seven; 0 is chance, 1 the same.

    NaN of fewer than three perturbations, among which there are no neighbours to speak of.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    if len(real_PG) < 3:
        return float("nan")
    real = _clusters(_neighbour_graph(real_PG), REAL_RESOLUTION)
    graph = _neighbour_graph(predicted_PG)
    found = [
        adjusted_mutual_info_score(real, _clusters(graph, resolution)) for resolution in PREDICTED_RESOLUTIONS
    ]
    return max(0.0, *map(float, found))


def _mean_distance(left_CG: sparse.csr_matrix, right_CG: sparse.csr_matrix, *, same: bool) -> float:
    right_square_C = np.asarray(right_CG.multiply(right_CG).sum(axis=1)).ravel()
    total = 0.0
    for start in range(0, left_CG.shape[0], _ROWS_AT_ONCE):
        rows_CG = left_CG[start : start + _ROWS_AT_ONCE]
        square_C = np.asarray(rows_CG.multiply(rows_CG).sum(axis=1)).ravel()
        product_CC = np.asarray((rows_CG @ right_CG.T).todense())
        away_CC = np.sqrt(np.maximum(square_C[:, None] + right_square_C[None, :] - 2 * product_CC, 0))
        if same:
            # Exactly, where rounding left the root of a small number.
            away_CC[np.arange(len(away_CC)), start + np.arange(len(away_CC))] = 0.0
        total += float(away_CC.sum())
    return total / (left_CG.shape[0] * right_CG.shape[0])


def _neighbour_graph(profile_PG: Array) -> sparse.csr_matrix:
    """[P, P] weights of UMAP's graph: how surely one of two is a neighbour of the other."""
    n = len(profile_PG)
    k = min(NEIGHBOURS, n - 1)
    away_PP = cdist(profile_PG, profile_PG)
    near_PK = np.argsort(away_PP, axis=1, kind="stable")[:, :k]
    away_PK = np.take_along_axis(away_PP, near_PK, 1).astype(np.float32).astype(np.float64)
    weight_PP = np.zeros((n, n), np.float32)
    for p, (near_K, away_K) in enumerate(zip(near_PK, away_PK, strict=True)):
        others = away_K[away_K > 0]
        first = float(others[0]) if len(others) else 0.0
        beyond_K = np.maximum(away_K - first, 0)
        weight_PP[p, near_K] = np.exp(-beyond_K / _width(beyond_K, away_K, away_PK, first))
        weight_PP[p, p] = 0
    return sparse.csr_matrix(weight_PP + weight_PP.T - weight_PP * weight_PP.T)


def _width(beyond_K: Array, away_K: Array, away_PK: Array, first: float) -> float:
    """The bandwidth at which a point has log2(K) neighbours' worth of weight."""
    wanted, low, high, width = np.log2(len(beyond_K)), 0.0, np.inf, 1.0
    for _ in range(_HALVINGS):
        weight = float(np.exp(-beyond_K[1:] / width).sum())
        if abs(weight - wanted) < _CLOSE:
            break
        if weight > wanted:
            high = width
            width = (low + high) / 2
        else:
            low = width
            width = width * 2 if np.isinf(high) else (low + high) / 2
    return max(width, _LEAST_WIDTH * float(away_K.mean() if first > 0 else away_PK.mean()), 1e-12)


def _clusters(graph_PP: sparse.csr_matrix, resolution: float) -> npt.NDArray[np.int64]:
    """Numbers of Leiden clusters by modularity."""
    # By name: a package whose types nobody has.
    igraph: Any = import_module("igraph")
    sources, targets = graph_PP.nonzero()
    graph = igraph.Graph(
        n=graph_PP.shape[0], edges=list(zip(sources.tolist(), targets.tolist(), strict=True))
    )
    weights = np.asarray(graph_PP[sources, targets]).ravel().tolist()
    igraph.set_random_number_generator(_Draws())
    try:
        found = graph.community_leiden(
            objective_function="modularity", weights=weights, resolution=resolution, n_iterations=ITERATIONS
        )
    finally:
        igraph.set_random_number_generator(random)
    return np.array(found.membership, dtype=np.int64)


class _Draws:
    """NumPy's generator of seed 0 as igraph asks for one (ends included), as scanpy hands it over."""

    def __init__(self) -> None:
        self._state = np.random.RandomState(0)

    def random(self) -> float:
        return float(self._state.random())

    def randint(self, low: int, high: int) -> int:
        return int(self._state.randint(low, high + 1))

    def getrandbits(self, n: int) -> int:
        return int(self._state.tomaxint()) & ((1 << n) - 1)

    def gauss(self, mean: float, spread: float) -> float:
        return float(self._state.normal(mean, spread))
