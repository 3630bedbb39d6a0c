"""Weights of samples: cells and captions in crowded places count less.

Source: CellWhisperer weighs by the local radius of densMAP (30 neighbours): the radius, shifted by a tenth of
its mean, cut at the 99.9th percentile, brought to mean 1. Here the radius is the mean squared distance to the
neighbours, and of many cells the neighbours are looked for among a sample.
Legend: N samples, R references, D width.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from storage.locations import Location

Float32 = npt.NDArray[np.float32]

NEIGHBOURS = 30
MOST_REFERENCES = 20_000
SHIFT, CUT = 0.1, 99.9
ROWS_AT_ONCE = 1024


def radius_weights(f_ND: Float32, seed: int = 0, neighbours: int = NEIGHBOURS) -> Float32:
    """Weight of each sample `[N]`, mean 1; 1 for all where there are too few to have neighbours.

    A row of NaN weighs 0. More than 20,000 samples look for fewer neighbours among a random 20,000, as many
    as fall into the same ball.
    """
    known_N = np.isfinite(f_ND).all(axis=1)
    rows = np.flatnonzero(known_N)
    weights_N: Float32 = np.asarray(known_N, np.float32)
    if len(rows) <= 2:
        return weights_N
    random = np.random.default_rng(seed)
    references = rows
    if len(rows) > MOST_REFERENCES:
        references = np.sort(random.choice(rows, MOST_REFERENCES, replace=False))
    wanted = min(neighbours, len(rows) - 1)
    k = max(1, round(wanted * len(references) / len(rows)))
    radius = _mean_distances(f_ND, rows, references, min(k, len(references) - 1))
    shifted = radius + SHIFT * radius.mean()
    if not shifted.any():
        return weights_N
    cut = np.minimum(shifted, np.percentile(shifted, CUT))
    weights_N[rows] = cut / cut.mean()
    return weights_N


def _mean_distances(
    f_ND: Float32, rows: npt.NDArray[np.int64], references: npt.NDArray[np.int64], k: int
) -> npt.NDArray[np.float64]:
    """Mean squared distance of each row to its k nearest references other than itself."""
    r_RD = f_ND[references]
    square_R = (r_RD**2).sum(axis=1)
    found = np.empty(len(rows))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        own = rows[start : start + ROWS_AT_ONCE]
        x_ND = f_ND[own]
        distance_NR = (x_ND**2).sum(axis=1)[:, None] - 2 * x_ND @ r_RD.T + square_R
        at = np.searchsorted(references, own)
        inside = np.flatnonzero(
            (at < len(references)) & (references[np.minimum(at, len(references) - 1)] == own)
        )
        distance_NR[inside, at[inside]] = np.inf
        nearest = np.partition(distance_NR, k - 1, axis=1)[:, :k]
        found[start : start + len(own)] = np.maximum(nearest, 0).mean(axis=1)
    return found


def write_weights(location: Location, name: str, weights: dict[str, Float32]) -> None:
    """weights: by side, "cell" or "text", one for each cell of the store."""
    content = io.BytesIO()
    np.savez(content, **weights)  # type: ignore[arg-type]
    location.put(name, content.getvalue())


def read_weights(path: str) -> dict[str, Float32]:
    """What `write_weights` wrote."""
    with np.load(io.BytesIO(Location.of(path).read()), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
