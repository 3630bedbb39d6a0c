"""Packed batches: cells of like length together, as many as fit a token budget, with no padding.

Batches are formed inside one member only. The shapes an encoder sees, hence the last bits of its results,
are then a function of the member and not of the worker that ran it or of what else was in flight.
"""

from __future__ import annotations

import numpy as np

# 8,192 tokens keep two cores or a small GPU busy while the widest intermediate of a 512-wide encoder stays
# at 64 MiB.
BATCH_TOKENS = 8192


def pack(lengths: np.ndarray, budget: int = BATCH_TOKENS) -> list[np.ndarray]:
    """Cell numbers (int64) of each batch, longest cells first.

    Every cell with tokens is in exactly one batch; cells without tokens are in none. A batch holds at most
    `budget` tokens, or one cell that is longer than that. Like lengths meet because attention over a packed
    batch works on groups of equal or similar length. Ties keep the order of the cells.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    order = order[: np.count_nonzero(lengths)]
    before = np.concatenate([[0], np.cumsum(lengths[order], dtype=np.int64)])
    batches, start = [], 0
    while start < len(order):
        stop = int(np.searchsorted(before, before[start] + budget, side="right")) - 1
        stop = max(stop, start + 1)
        batches.append(order[start:stop])
        start = stop
    return batches


def token_slots(lengths: np.ndarray, budget: int = BATCH_TOKENS) -> int:
    """Tokens that the batches of `pack` have room for; tokens over slots is the share of useful ones."""
    return sum(max(budget, int(lengths[cells].sum())) for cells in pack(lengths, budget))


def token_positions(offsets: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Where the tokens of `cells`, cell after cell, lie in the packed array that `offsets` (int64
    `[cells+1]`) cuts.
    """
    lengths = offsets[cells + 1] - offsets[cells]
    first = np.repeat(offsets[cells] - (np.cumsum(lengths) - lengths), lengths)
    return first + np.arange(int(lengths.sum()), dtype=np.int64)
