"""How sure the numbers are: intervals from drawing donors, not cells, again and again.

Cells of one donor are alike; drawing cells would call differences between donors certain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.retrieval.evaluation.inputs import Int64

# Fewer groups than this say nothing of the spread between them.
LEAST_GROUPS = 3


def bootstrap(
    statistics: Callable[[Int64], Mapping[str, float]],
    n_cells: int,
    group_C: npt.NDArray[Any] | None,
    draws: int,
    seed: int,
) -> tuple[dict[str, list[float]], str]:
    """95 % intervals [low, high] of every statistic, and what was drawn: "groups" or, with fewer than three
    of them, "cells".

    statistics: of the cells of these numbers, which may repeat.
    """
    by_group = group_C is not None and len(np.unique(group_C)) >= LEAST_GROUPS
    units = _units(group_C) if by_group and group_C is not None else list(np.arange(n_cells)[:, None])
    generator, found = np.random.default_rng(seed), []
    for _ in range(draws):
        drawn = generator.integers(len(units), size=len(units))
        found.append(statistics(np.concatenate([units[unit] for unit in drawn])))
    intervals = {}
    for name in found[0] if found else ():
        low, high = np.nanpercentile([each[name] for each in found], [2.5, 97.5])
        intervals[name] = [float(low), float(high)]
    return intervals, "groups" if by_group else "cells"


def _units(group_C: npt.NDArray[Any]) -> list[Int64]:
    """Cells of each group."""
    order = np.argsort(group_C, kind="stable")
    _, starts = np.unique(group_C[order], return_index=True)
    return [np.asarray(part, np.int64) for part in np.split(order, starts[1:])]
