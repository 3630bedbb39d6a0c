"""What CellWhisperer's clients send: bodies of their routes, with what they add that means nothing to us
left out.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from engine.serving.chat.conversation import Wish
from engine.serving.doors import CellId, Doors
from engine.serving.problems import Problem

Texts = Annotated[list[str], Field(max_length=1_024)]


class Sampled(BaseModel):
    """What their clients ask of a language model; without one it means nothing."""

    model_config = ConfigDict(extra="ignore")

    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: int = Field(512, ge=1)

    def wish(self, doors: Doors) -> Wish:
        most = doors.settings.limits.answer_tokens
        return Wish(min(self.max_new_tokens, most), self.temperature, self.top_p)


class Generate(Sampled):
    """A prompt with `<image>` for each vector in `images`."""

    prompt: str = Field(max_length=64_000)
    images: list[list[float]] = Field([], max_length=8)


class ObsIndex(BaseModel):
    model_config = ConfigDict(extra="ignore")

    index: list[CellId | tuple[CellId, CellId]]


class ObsFilter(BaseModel):
    model_config = ConfigDict(extra="ignore")

    obs: ObsIndex


class CellSelection(BaseModel):
    """Positions of cells, or inclusive ranges of them."""

    model_config = ConfigDict(extra="ignore")

    filter: ObsFilter

    async def cells(self, doors: Doors) -> npt.NDArray[np.int64]:
        """Those that the index has: their pages count all cells of a file, with a vector or without."""
        most, of = doors.settings.limits.selection_cells, self.filter.obs.index
        spans = [(each, each) if isinstance(each, int) else each for each in of]
        if sum(max(0, last - first + 1) for first, last in spans) > most:
            raise Problem(413, "too_many_cells", f"a selection of more than {most:,} cells")
        parts = [np.arange(first, last + 1, dtype=np.int64) for first, last in spans]
        ids = np.unique(np.concatenate([np.empty(0, np.int64), *parts]))
        chosen: npt.NDArray[np.int64] = ids[await doors.cells.known.remote(ids)]
        if not len(chosen):
            raise Problem(400, "bad_filter", "the filter names no cell that is in the index")
        return chosen


class Text(BaseModel):
    model_config = ConfigDict(extra="ignore")

    text: str = Field(min_length=1, max_length=4_000)


class OfCells(BaseModel):
    model_config = ConfigDict(extra="ignore")

    cell_selection: CellSelection = Field(alias="cellSelection")


class Turn(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    speaker: Literal["human", "gpt"] = Field(alias="from")
    value: str = Field(max_length=16_000)


class Chat(OfCells, Sampled):
    messages: list[Turn] = Field(min_length=1, max_length=64)


class Thumb(Chat):
    thumb: Literal["up", "down"] = Field(alias="thumbDirection")


class Interpret(OfCells):
    text: str = Field(min_length=1, max_length=4_000)
