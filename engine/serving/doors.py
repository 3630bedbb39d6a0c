"""Handles of the rooms that are loaded, and the questions that more than one route asks of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.retrieval.texts import Question
from engine.serving.problems import Problem, not_loaded
from engine.serving.settings import Settings

Int64 = npt.NDArray[np.int64]

# A row number of any store there will be; numpy's int64 ends there too.
CellId = Annotated[int, Field(ge=0, le=2**53)]


# Rooms that say what they hold, the cells first.
ROOMS = ("cells", "texts", "counts", "features", "phrases", "perturbations", "chat")


class CellChoice(BaseModel):
    """Some cells: by number, by half-open ranges of numbers, by a condition, or a selection made before.
    Several of them are joined; `all` stands for every cell.
    """

    model_config = ConfigDict(extra="forbid")

    cells: list[CellId] = []
    ranges: list[tuple[CellId, CellId]] = []
    where: str | None = Field(default=None, max_length=4_000)
    selection: str | None = Field(default=None, max_length=64)
    all: Literal[True] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> CellChoice:
        if not (self.cells or self.ranges or self.where or self.selection or self.all):
            raise ValueError("say which cells: cells, ranges, where, selection or all")
        return self


@dataclass(frozen=True)
class Doors:
    """A handle for each room, None for one that is not loaded; `handle.method.remote(...)` can be awaited."""

    settings: Settings
    cells: Any
    selections: Any
    texts: Any = None
    counts: Any = None
    attributions: Any = None
    features: Any = None
    phrases: Any = None
    perturbations: Any = None
    chat: Any = None
    dashboard: Any = None

    async def question(self, text: str, template: str | None = None) -> Question:
        """The vector of a query in words."""
        if self.texts is None:
            raise not_loaded("joint model, so it reads no text", "--joint, on an index made with one")
        question: Question = await self.texts.question.remote(text, template)
        return question

    async def chosen(self, choice: CellChoice) -> Int64:
        """Ids of the cells, ascending. Raises Problem for more than are allowed or ids that are not there."""
        most = self.settings.limits.selection_cells
        n_ranges = sum(max(0, stop - start) for start, stop in choice.ranges)
        if len(choice.cells) + n_ranges > most:
            raise Problem(413, "too_many_cells", f"a selection of more than {most:,} cells")
        parts: list[Int64] = [np.asarray(choice.cells, np.int64)]
        parts += [np.arange(start, stop, dtype=np.int64) for start, stop in choice.ranges]
        if choice.where or choice.all:
            parts.append(await self.cells.ids.remote(choice.where))
        if choice.selection:
            parts.append(await self.selections.cells.remote(choice.selection))
        ids: Int64 = np.unique(np.concatenate(parts))
        if len(ids) > most and not choice.all:
            raise Problem(413, "too_many_cells", f"a selection of {len(ids):,} cells; at most {most:,}")
        await self._require_known(ids)
        return ids

    async def selection(self, name: str) -> Int64:
        """The cells of a selection that was made before. Raises Problem when it, or one of them, is gone."""
        ids: Int64 = await self.selections.cells.remote(name)
        await self._require_known(ids)
        return ids

    async def _require_known(self, ids: Int64) -> None:
        known = await self.cells.known.remote(ids)
        if not known.all():
            missing = ids[~known]
            raise Problem(
                400, "unknown_cell", f"{len(missing)} cells are not in the index, the first {missing[0]}"
            )

    async def scores_of(self, ids: Int64, question: Question) -> npt.NDArray[np.float32]:
        """Scores of some cells for a question, in the order asked."""
        everyone = await self.cells.ids.remote(None)
        scores: npt.NDArray[np.float32] = await self.cells.all_scores.remote(question.vector, question.length)
        return scores[np.searchsorted(everyone, ids)]

    async def rest(self, ids: Int64) -> Int64:
        """All cells but these."""
        everything: Int64 = await self.cells.ids.remote(None)
        return np.setdiff1d(everything, ids, assume_unique=True)


def ranges_of(ids: Sequence[int] | Int64) -> list[tuple[int, int]]:
    """Ascending ids as half-open ranges: what a lasso of half a million cells is sent as."""
    ids = np.asarray(ids, np.int64)
    if not len(ids):
        return []
    breaks = np.flatnonzero(np.diff(ids) != 1) + 1
    starts, ends = ids[np.r_[0, breaks]], ids[np.r_[breaks - 1, len(ids) - 1]]
    return [(int(start), int(end) + 1) for start, end in zip(starts, ends, strict=True)]
