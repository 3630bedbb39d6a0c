"""Rows of a small table for millions of entries, a piece at a time.

numpy widens all places of a lookup to 64 bits before it begins; for a whole block of cells that is new
memory, and touching it costs more than the lookup. A piece of it stays in a core's cache.

Legend: T entries of all cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

_ENTRIES = 1 << 16


def look_up(table: npt.NDArray[Any], place_T: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Any]:
    """table[place_T], one dimension each; every place has to lie in the table."""
    found_T = np.empty(len(place_T), table.dtype)
    for part in pieces(len(place_T)):
        # "clip" writes straight into `out`; the default makes a copy first.
        np.take(table, place_T[part], out=found_T[part], mode="clip")
    return found_T


def pieces(n: int) -> Iterator[slice]:
    """Slices that cover n entries, each small enough for a core's cache."""
    for start in range(0, n, _ENTRIES):
        yield slice(start, min(start + _ENTRIES, n))
