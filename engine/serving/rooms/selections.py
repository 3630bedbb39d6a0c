"""Selections of cells that a caller made once and names afterwards. One process: all doors must know them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from engine.serving.problems import Problem
from engine.serving.settings import Settings

Int64 = npt.NDArray[np.int64]


class SelectionRoom:
    """Keeps the last so many. A selection is named by what is in it, so the same cells have one name."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.limits.selections
        self._cells: OrderedDict[str, Int64] = OrderedDict()

    def keep(self, ids: Int64) -> str:
        name = f"sel_{hashlib.sha256(ids.tobytes()).hexdigest()[:20]}"
        self._cells[name] = ids
        self._cells.move_to_end(name)
        while len(self._cells) > self._most:
            self._cells.popitem(last=False)
        return name

    def cells(self, name: str) -> Int64:
        if name not in self._cells:
            raise Problem(
                404, "no_selection", f"no selection {name!r}; it may have been forgotten: make it again"
            )
        self._cells.move_to_end(name)
        return self._cells[name]
