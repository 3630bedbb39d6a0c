"""Whether an embedding keeps labels together and mixes batches, by the measures of scib.

Legend: C cells, D width of an embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.retrieval.annotation.graph import leiden, neighbour_graph
from engine.retrieval.evaluation.inputs import Float32, Int64

# Leiden is tried at these resolutions; the one that agrees best with the labels counts, as in scib.
RESOLUTIONS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.4, 2.0)
MOST_CELLS = 10_000


def integration(
    e_CD: Float32, label_C: Int64, batch_C: npt.NDArray[Any] | None, seed: int
) -> dict[str, float]:
    """nmi, ari, asw_label, graph_connectivity, avg_bio (the mean of the first three), and asw_batch where
    there is more than one batch. All in [0, 1], higher is better. At most 10,000 cells, drawn at random.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

    if len(e_CD) > MOST_CELLS:
        drawn = np.random.default_rng(seed).choice(len(e_CD), MOST_CELLS, replace=False)
        e_CD, label_C = e_CD[drawn], label_C[drawn]
        batch_C = None if batch_C is None else batch_C[drawn]
    graph = neighbour_graph(e_CD, seed)
    agreed = []
    for resolution in RESOLUTIONS:
        cluster_C = leiden(graph, resolution, seed)
        nmi = normalized_mutual_info_score(label_C, cluster_C)
        agreed.append((float(nmi), float(adjusted_rand_score(label_C, cluster_C)), resolution))
    nmi, ari, resolution = max(agreed)
    asw = (float(silhouette_score(e_CD, label_C)) + 1) / 2
    found = {
        "nmi": nmi,
        "ari": ari,
        "asw_label": asw,
        "avg_bio": (nmi + ari + asw) / 3,
        "graph_connectivity": graph_connectivity(graph.obsp["connectivities"], label_C),
        "resolution": resolution,
        "n_cells": len(e_CD),
    }
    mixed = None if batch_C is None else asw_batch(e_CD, label_C, batch_C)
    return found if mixed is None else {**found, "asw_batch": mixed}


def graph_connectivity(graph: Any, label_C: Int64) -> float:
    """Mean over labels of the share of its cells in the largest connected part of their graph."""
    from scipy.sparse.csgraph import connected_components

    shares = []
    for label in np.unique(label_C):
        own = np.flatnonzero(label_C == label)
        _, part = connected_components(graph[own][:, own], directed=False)
        shares.append(np.bincount(part).max() / len(own))
    return float(np.mean(shares))


def asw_batch(e_CD: Float32, label_C: Int64, batch_C: npt.NDArray[Any]) -> float | None:
    """Mean over labels of 1 - |silhouette of batches|; None where no label is in two batches."""
    from sklearn.metrics import silhouette_samples

    mixed = []
    for label in np.unique(label_C):
        own = np.flatnonzero(label_C == label)
        n_batches = len(np.unique(batch_C[own]))
        if 1 < n_batches < len(own):
            mixed.append(1 - np.abs(silhouette_samples(e_CD[own], batch_C[own])).mean())
    return float(np.mean(mixed)) if mixed else None
