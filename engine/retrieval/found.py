"""What a search answers, and the order of it: by score, then by cell id, so that it is the same whichever way
a segment was searched and however the index is spread over shards.

Shape legend: K results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Found:
    """What a search answers.

    score, cell: `[K]`, best first; fewer than asked when fewer pass. n_passing: cells that could have been
    found. ways: how many segments were searched which way. version: of the index. shards: how many answered,
    of how many; an answer of fewer is partial.
    """

    score: npt.NDArray[np.float32]
    cell: npt.NDArray[np.int64]
    n_passing: int
    version: int
    ways: dict[str, int] = field(default_factory=dict)
    shards: tuple[int, int] = (1, 1)

    def scaled(self, length: float) -> Found:
        """The same answer with scores times `length`: the query's, where it is a sum and not a direction."""
        return replace(self, score=self.score * np.float32(length))

    @property
    def is_partial(self) -> bool:
        return self.shards[0] < self.shards[1]


def ranked(
    scores: Sequence[npt.NDArray[np.float32]], cells: Sequence[npt.NDArray[np.int64]], k: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The k best of several lists: by score, then by cell id."""
    score = np.concatenate([np.empty(0, np.float32), *scores])
    cell = np.concatenate([np.empty(0, np.int64), *cells])
    order = np.lexsort((cell, -score))[:k]
    return score[order], cell[order]
