"""Random numbers that belong to a token and to nothing else.

A draw is a hash of (seed, cell, position). It needs no generator state, so it does not depend on which
cells were drawn before, on who draws, or on the numpy version (numpy may change the streams of its
generators between releases).
"""

from __future__ import annotations

import numpy as np

# The increment and multipliers of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
# generators, 2014).
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def token_draws(seed: int, cell: np.ndarray, position: np.ndarray, stream: int = 0) -> np.ndarray:
    """One uint64 for each token `(cell, position)`, uniform and independent for all practical purposes.

    Streams of one seed are independent of each other.
    """
    with np.errstate(over="ignore"):
        by_seed = _mix(np.full(1, seed, dtype=np.int64).astype(np.uint64) + _STEP)
        by_seed = _mix(by_seed + np.full(1, stream + 1, dtype=np.uint64) * _STEP)
        by_cell = _mix(by_seed + cell.astype(np.uint64) * _STEP)
        return _mix(by_cell + (position.astype(np.uint64) + np.uint64(1)) * _STEP)


def smallest_per_cell(draws: np.ndarray, cell: np.ndarray, n: int) -> np.ndarray:
    """Mask (bool `[tokens]`) of the `n` smallest draws of each cell; all of a cell that has no more than `n`.

    `cell` must be sorted. Keeping the smallest of random keys samples without replacement.
    """
    order = np.lexsort((draws, cell))
    first_of_cell = np.searchsorted(cell, cell, side="left")
    rank = np.empty(len(cell), dtype=np.int64)
    rank[order] = np.arange(len(cell)) - first_of_cell[order]
    return rank < n


def _mix(word: np.ndarray) -> np.ndarray:
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    mixed: np.ndarray = word ^ (word >> np.uint64(31))
    return mixed
