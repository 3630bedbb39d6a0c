"""Neighbours, map and clusters of cells by their joint embeddings.

Up to so many cells, scanpy's own: 15 neighbours, UMAP, Leiden. Above, that is done for landmarks (cells drawn
at random), and every other cell is placed among its nearest landmarks and takes their cluster.

Legend: C cells, M landmarks, U width of the common space.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.retrieval.annotation.graph import NEIGHBOURS, finder_of, leiden, neighbour_graph
from storage.embeddings import Embeddings

BLOCK_CELLS = 4096

Float32 = npt.NDArray[np.float32]
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Layout:
    """place_C2: on the map, NaN for a cell without an embedding. cluster_C: number of the cluster, -1
    likewise; cluster 0 is the largest. n_landmarks: cells the map was computed on.
    """

    place_C2: Float32
    cluster_C: npt.NDArray[np.int32]
    n_landmarks: int

    @property
    def n_clusters(self) -> int:
        return int(self.cluster_C.max(initial=-1)) + 1


@dataclass(frozen=True)
class LayoutOptions:
    landmarks: int = 50_000
    resolution: float = 1.0
    seed: int = 0


def lay_out(
    embeddings: Embeddings, n_cells: int, options: LayoutOptions, report: Report | None = None
) -> Layout:
    """Map and clusters of the first `n_cells` cells. Memory holds the landmarks and one block of cells."""
    known_C = known_cells(embeddings, n_cells)
    known = np.flatnonzero(known_C)
    generator = np.random.default_rng(options.seed)
    chosen = known
    if len(known) > options.landmarks:
        chosen = np.sort(generator.choice(known, options.landmarks, replace=False))
    place_C2 = np.full((n_cells, 2), np.nan, np.float32)
    cluster_C = np.full(n_cells, -1, np.int32)
    if len(chosen):
        e_MU = rows_of(embeddings, chosen)
        place_C2[chosen], cluster_C[chosen] = landmarks_laid_out(e_MU, options)
        if len(chosen) < len(known):
            _place_others(embeddings, known_C, chosen, e_MU, place_C2, cluster_C, report)
    return Layout(place_C2, _by_size(cluster_C), len(chosen))


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


def _place_others(
    embeddings: Embeddings,
    known_C: npt.NDArray[np.bool_],
    chosen: npt.NDArray[np.int64],
    e_MU: Float32,
    place_C2: Float32,
    cluster_C: npt.NDArray[np.int32],
    report: Report | None,
) -> None:
    """Fills in the cells that are no landmarks: the mean place and commonest cluster of their nearest ones,
    nearer ones counting more.
    """
    finder, n_cells = finder_of(e_MU), len(known_C)
    place_M2, cluster_M = place_C2[chosen], cluster_C[chosen]
    others_C = known_C.copy()
    others_C[chosen] = False
    k, n_clusters = min(NEIGHBOURS, len(chosen)), int(cluster_M.max()) + 1
    for start in range(0, n_cells, BLOCK_CELLS):
        stop = min(start + BLOCK_CELLS, n_cells)
        rows = np.flatnonzero(others_C[start:stop])
        if len(rows):
            distance_RK, near_RK = finder.search(embeddings.read(start, stop)[rows], k)
            weight_RK = 1.0 / (distance_RK + 1e-6)
            weight_RK /= weight_RK.sum(axis=1, keepdims=True)
            place_C2[start + rows] = np.einsum("rk,rkp->rp", weight_RK, place_M2[near_RK])
            votes = np.zeros((len(rows), n_clusters))
            np.add.at(votes, (np.arange(len(rows))[:, None], cluster_M[near_RK]), weight_RK)
            cluster_C[start + rows] = votes.argmax(axis=1)
        if report is not None:
            report(stop, n_cells, "cells placed")


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
