"""What a screen says, group by group: one pass over the cells of a store, kept in each process that trains.

Legend: G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from engine.perturbation.differential import mean_of
from engine.perturbation.normalise import DEPTH, log_normalised
from engine.perturbation.prior import Screened
from engine.perturbation.rank_sum import Array
from engine.perturbation.screen import Group, Screen, open_store
from storage.cells import CellStore
from storage.errors import InputError


@dataclass(frozen=True)
class ScreenSource:
    """Where the cells are and what their columns mean; travels to workers."""

    cells: str
    perturbation: str
    control: str
    context: str | None = None
    max_cells: int | None = None
    dose: str | None = None

    def open(self) -> Screen:
        """Raises InputError, e.g. when a column or control cells are missing."""
        return open_store(
            CellStore.open(self.cells),
            perturbation=self.perturbation,
            control=self.control,
            context=self.context,
            dose=self.dose,
            max_cells=self.max_cells,
        )

    def measured(self) -> Measurements:
        """The means of its groups; computed once in a process."""
        return _measured(self)


@dataclass(frozen=True)
class Measurements:
    """Mean log1p-normalised profile and size of every group of a screen."""

    screen: Screen
    means: dict[Group, Array]

    @property
    def controls(self) -> dict[str, Array]:
        """Context -> mean profile of its control cells."""
        return {
            context: mean_G for (context, label), mean_G in self.means.items() if label == self.screen.control
        }

    def screened(self, groups: Sequence[Group]) -> Screened:
        """Effects of some groups, each from the control of its context."""
        controls = self.controls
        deltas = [self.means[group] - controls[group[0]] for group in groups]
        return Screened(
            np.stack(deltas) if deltas else np.zeros((0, len(self.screen.genes))),
            [self.screen.targets(label) for _, label in groups],
            [context for context, _ in groups],
            np.array([len(self.screen.groups[group]) for group in groups], dtype=np.int64),
        )


def require_controls(screen: Screen) -> None:
    """Raises InputError naming the contexts without control cells."""
    groups = screen.groups
    without = sorted({context for context, _ in groups if (context, screen.control) not in groups})
    if without:
        raise InputError(
            f"{screen.where}: no control cells ({screen.control!r}) in context {', '.join(without[:5])}; "
            "effects are differences from the control cells of the same context."
        )


@lru_cache(maxsize=2)
def _measured(source: ScreenSource) -> Measurements:
    screen = source.open()
    means = {
        group: mean_of(log_normalised(matrix_CG, DEPTH))
        for group, matrix_CG in screen.stream(list(screen.groups))
    }
    return Measurements(screen, means)
