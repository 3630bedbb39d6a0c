"""Neighbours, map and clusters of cells by their joint embeddings.

Up to so many cells, scanpy's own: 15 neighbours, UMAP, Leiden. Above, that is done for landmarks (cells drawn
at random), and every other cell is placed among its nearest landmarks and takes their cluster: any range of
cells by itself, so that ranges can be placed anywhere and in any order.

Legend: C cells, M landmarks, U width of the common space.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.retrieval.annotation.graph import NEIGHBOURS, finder_of, leiden, neighbour_graph
from storage.embeddings import Embeddings

BLOCK_CELLS = 4096

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LayoutOptions:
    landmarks: int = 50_000
    resolution: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Landmarks:
    """The cells that the map was computed on. row_M: which they are, ascending; place_M2: where each lies;
    cluster_M: which cluster it is of.
    """

    row_M: npt.NDArray[np.int64]
    place_M2: Float32
    cluster_M: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.row_M)


def find_landmarks(embeddings: Embeddings, n_cells: int, options: LayoutOptions) -> Landmarks:
    """Map and clusters of up to so many of the first `n_cells` cells, which are in memory for it."""
    known = np.flatnonzero(known_cells(embeddings, n_cells))
    chosen = known
    if len(known) > options.landmarks:
        generator = np.random.default_rng(options.seed)
        chosen = np.sort(generator.choice(known, options.landmarks, replace=False))
    if not len(chosen):
        return Landmarks(chosen, np.zeros((0, 2), np.float32), np.zeros(0, np.int32))
    return Landmarks(chosen, *landmarks_laid_out(rows_of(embeddings, chosen), options))


def landmarks_laid_out(e_MU: Float32, options: LayoutOptions) -> tuple[Float32, npt.NDArray[np.int32]]:
    """(place_M2, cluster_M) by scanpy; too few cells for a graph lie on a line, in one cluster."""
    if len(e_MU) <= 3:
        line = np.stack([np.arange(len(e_MU)), np.zeros(len(e_MU))], axis=1)
        return line.astype(np.float32), np.zeros(len(e_MU), np.int32)
    import scanpy

    cells = neighbour_graph(e_MU, options.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap-learn on few cells
        scanpy.tl.umap(cells, random_state=options.seed)
    return cells.obsm["X_umap"].astype(np.float32), leiden(cells, options.resolution, options.seed)


def known_cells(embeddings: Embeddings, n_cells: int) -> npt.NDArray[np.bool_]:
    """Which cells have an embedding."""
    known_C = np.zeros(n_cells, bool)
    for start in range(0, n_cells, BLOCK_CELLS):
        stop = min(start + BLOCK_CELLS, n_cells)
        known_C[start:stop] = np.isfinite(embeddings.read(start, stop)).all(axis=1)
    return known_C


def rows_of(embeddings: Embeddings, rows: npt.NDArray[np.int64]) -> Float32:
    """Some rows (ascending) [M, U], read block by block."""
    e_MU = np.empty((len(rows), embeddings.width), np.float32)
    for start in range(0, int(rows[-1]) + 1, BLOCK_CELLS):
        low, high = np.searchsorted(rows, [start, start + BLOCK_CELLS])
        if low < high:
            stop = min(start + BLOCK_CELLS, embeddings.n_cells)
            e_MU[low:high] = embeddings.read(start, stop)[rows[low:high] - start]
    return e_MU


class Placing:
    """Places cells among landmarks: the mean place and the commonest cluster of the nearest ones, nearer ones
    counting more. Landmarks lie where they are.
    """

    def __init__(self, embeddings: Embeddings, landmarks: Landmarks) -> None:
        self.embeddings, self.landmarks = embeddings, landmarks

    @cached_property
    def _finder(self) -> Any:
        return finder_of(rows_of(self.embeddings, self.landmarks.row_M))

    def place(self, start: int, e_CU: Float32) -> tuple[Float32, npt.NDArray[np.int32]]:
        """(place_C2, cluster_C) of the cells from `start` on; NaN and -1 for one without an embedding."""
        found = self.landmarks
        place_C2 = np.full((len(e_CU), 2), np.nan, np.float32)
        cluster_C = np.full(len(e_CU), -1, np.int32)
        low, high = np.searchsorted(found.row_M, [start, start + len(e_CU)])
        own = found.row_M[low:high] - start
        place_C2[own], cluster_C[own] = found.place_M2[low:high], found.cluster_M[low:high]
        others_C = np.atleast_1d(np.isfinite(e_CU).all(axis=1))
        others_C[own] = False
        rows = np.flatnonzero(others_C)
        if len(rows):
            squared_RK, near_RK = self._finder.search(e_CU[rows], min(NEIGHBOURS, len(found)))
            weight_RK = 1.0 / (squared_RK + 1e-6)
            weight_RK /= weight_RK.sum(axis=1, keepdims=True)
            place_C2[rows] = np.einsum("rk,rkp->rp", weight_RK, found.place_M2[near_RK])
            votes = np.zeros((len(rows), int(found.cluster_M.max()) + 1))
            np.add.at(votes, (np.arange(len(rows))[:, None], found.cluster_M[near_RK]), weight_RK)
            cluster_C[rows] = votes.argmax(axis=1)
        return place_C2, cluster_C


@dataclass(frozen=True)
class Layout:
    """place_C2: on the map, NaN for a cell without an embedding. cluster_C: number of the cluster, -1
    likewise; cluster 0 is the largest. n_landmarks: cells the map was computed on.
    """

    place_C2: Float32
    cluster_C: npt.NDArray[np.int32]
    n_landmarks: int

    @classmethod
    def of_parts(
        cls, places: Sequence[Float32], clusters: Sequence[npt.NDArray[np.int32]], n_landmarks: int
    ) -> Layout:
        """Of ranges of cells that were placed, one after the other."""
        return cls(np.concatenate(places), _by_size(np.concatenate(clusters)), n_landmarks)

    @property
    def n_clusters(self) -> int:
        return int(self.cluster_C.max(initial=-1)) + 1


def _by_size(cluster_C: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Clusters numbered by size, as scanpy does; placing further cells may have changed which is larger."""
    known_C = cluster_C >= 0
    if not known_C.any():
        return cluster_C
    sizes = np.bincount(cluster_C[known_C])
    order = np.argsort(-sizes, kind="stable")
    number = np.empty(len(sizes), np.int32)
    number[order] = np.arange(len(sizes))
    numbered = cluster_C.copy()
    numbered[known_C] = number[cluster_C[known_C]]
    return numbered
