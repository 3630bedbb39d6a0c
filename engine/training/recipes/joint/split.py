"""Which cells a joint model learns from, and which are held out to judge it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.captions.source import require_columns
from engine.captions.templates import as_texts
from storage.cells import CellStore
from storage.errors import InputError

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Values:
    """Cells whose `column` of obs is one of `values`."""

    column: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, flag: str) -> Values:
        """Of COLUMN=VALUE,VALUE. Raises InputError."""
        column, _, values = text.partition("=")
        found = tuple(value.strip() for value in values.split(",") if value.strip())
        if not column.strip() or not found:
            raise InputError(f"{flag} {text}: expected COLUMN=VALUE or COLUMN=VALUE,VALUE.")
        return cls(column.strip(), found)

    def of(self, store: CellStore, n_cells: int, flag: str) -> Flags:
        """Whether each of the first cells is one. Raises InputError for values that no cell has."""
        column = as_texts(require_columns(store, [self.column], flag)[self.column]).iloc[:n_cells]
        absent = sorted(set(self.values) - set(column.dropna()))
        if absent:
            present = ", ".join(sorted(set(column.dropna()))[:20])
            raise InputError(f"{flag}: no cell has {self.column} {', '.join(absent)}; there are {present}.")
        chosen: Flags = column.isin(self.values).to_numpy(dtype=np.bool_)
        return chosen


@dataclass(frozen=True)
class Split:
    """hold_out: these cells. by: whole groups of that obs column, drawn at random until they are at least
    `share` of the cells. Neither: `share` of the cells at random; 0 for none.
    """

    hold_out: Values | None = None
    by: str | None = None
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise InputError(f"--held-out-share {self.share}: a share of the cells, 0 to below 1.")
        if self.hold_out and self.by:
            raise InputError("--hold-out and --split-by: give one or the other.")

    def lineage(self) -> dict[str, Any]:
        if self.hold_out:
            return {"hold_out": [self.hold_out.column, *self.hold_out.values]}
        return {"by": self.by, "share": self.share}

    def held_out(self, store: CellStore, usable_C: Flags, seed: int) -> Flags:
        """Whether each cell is held out; never one that is not usable.

        Raises InputError when nothing is left to learn from, or a group to hold out cannot be found.
        """
        held_C = self._chosen(store, usable_C, seed) & usable_C
        if not (usable_C & ~held_C).any():
            raise InputError(
                f"{store.location}: all cells with a caption are held out; none is left to learn."
            )
        if (self.hold_out or self.by) and not held_C.any():
            raise InputError(f"{store.location}: none of the cells held out has a caption.")
        return held_C

    def _chosen(self, store: CellStore, usable_C: Flags, seed: int) -> Flags:
        n_cells = len(usable_C)
        random = np.random.default_rng([seed, n_cells])
        if self.hold_out:
            return self.hold_out.of(store, n_cells, "--hold-out")
        if self.by is None:
            return random.random(n_cells) < self.share
        groups = as_texts(require_columns(store, [self.by], "--split-by")[self.by]).iloc[:n_cells]
        groups = groups.where(usable_C)
        sizes = groups.value_counts().sort_index()
        if len(sizes) < 2:
            raise InputError(
                f"--split-by {self.by}: the cells are of one group; there is nothing to hold out."
            )
        order = random.permutation(len(sizes))
        enough = int(np.searchsorted(np.cumsum(sizes.to_numpy()[order]), self.share * usable_C.sum())) + 1
        chosen = sizes.index[order[: min(enough, len(sizes) - 1)]]
        return groups.isin(set(chosen)).to_numpy(dtype=np.bool_)
