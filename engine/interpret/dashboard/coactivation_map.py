"""Features on a plane: those that fire together lie together.

Directions of an autoencoder have no map worth looking at, nearly all are orthogonal; who fires with whom has.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pandas as pd

from engine.interpret.dashboard.numbers import rounded

WEAKEST = 0.05
"""Correlations below it are no edges of the map."""
LARGE = 2_000
"""From so many features on a layout that scales is used."""


def map_of(partners: pd.DataFrame, n_features: int, first: int) -> dict[str, Any]:
    """x, y in 0 to 1 of the features that fire with others (`feature`), and a group number each.

    Deterministic: the layout begins on a circle and draws from a fixed stream.
    """
    import igraph  # type: ignore[import-untyped]
    import leidenalg  # type: ignore[import-untyped]

    strong = partners[partners["correlation"] >= WEAKEST]
    pairs = np.sort(strong[["feature", "partner"]].to_numpy(np.int64) - first, axis=1)
    edges, place = np.unique(pairs, axis=0, return_index=True)
    weight = strong["correlation"].to_numpy(np.float64)[place]
    nodes, ends = np.unique(edges, return_inverse=True)
    if not nodes.size:
        return {"feature": [], "x": [], "y": [], "group": []}
    igraph.set_random_number_generator(random.Random(0))
    graph = igraph.Graph(n=len(nodes), edges=ends.reshape(edges.shape).tolist())
    if len(nodes) < LARGE:
        places = graph.layout_fruchterman_reingold(weights=weight, seed=graph.layout_circle(), niter=300)
    else:
        places = graph.layout_drl(weights=weight, seed=graph.layout_circle())
    igraph.set_random_number_generator(random)
    found = leidenalg.find_partition(
        graph, leidenalg.ModularityVertexPartition, weights=weight.tolist(), seed=1
    )
    xy = np.asarray(places.coords)
    low, high = np.quantile(xy, [0.005, 0.995], axis=0)
    share = np.clip((xy - low) / np.maximum(high - low, 1e-9), 0, 1)
    return {
        "feature": (nodes + first).tolist(),
        "x": rounded(share[:, 0]),
        "y": rounded(share[:, 1]),
        "group": list(found.membership),
    }
