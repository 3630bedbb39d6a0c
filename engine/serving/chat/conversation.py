"""One conversation on its way to an answer: what was said, the cells it is about, the evidence on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from engine.models.chat.templates import Turn
from engine.serving.chat.answers import DEFAULT_QUESTION
from engine.serving.chat.evidence import Evidence
from engine.serving.doors import CellChoice, Doors

Int64 = npt.NDArray[np.int64]

# CellWhisperer's list at the start of a conversation.
N_TOP_GENES = 50


@dataclass(frozen=True)
class Wish:
    """What a caller may choose of an answer."""

    tokens: int
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Conversation:
    """turns: the user first and last, sides alternating. cells: ids of each selection in the turns, in order.
    named: the selections that the evidence is on, by their names in sentences.
    """

    turns: tuple[Turn, ...]
    cells: tuple[Int64, ...]
    named: dict[str, Int64]
    pieces: Sequence[Evidence]
    wish: Wish

    @property
    def question(self) -> str:
        return self.turns[-1].text

    async def means(self, doors: Doors) -> npt.NDArray[np.float32]:
        """Mean vector of each selection in the turns `[N, U]`."""
        found = [(await doors.cells.mean.remote(ids))[0] for ids in self.cells]
        return np.stack(found).astype(np.float32)

    async def top_genes(self, doors: Doors) -> list[str]:
        """Of the first selection; none without counts."""
        if doors.counts is None:
            return []
        genes: list[str] = await doors.counts.top_genes.remote(self.cells[0], N_TOP_GENES)
        return genes


def turns_of(said: Sequence[Turn]) -> tuple[Turn, ...]:
    """Sides alternate, the user first: turns of one side in a row are joined, an assistant that speaks first
    is left out.
    """
    turns: list[Turn] = []
    for turn in said:
        if turns and turns[-1].role == turn.role:
            before = turns[-1]
            text = "\n".join(filter(None, (before.text, turn.text)))
            turns[-1] = replace(before, text=text, n_cells=before.n_cells + turn.n_cells)
        elif turns or turn.role == "user":
            turns.append(turn)
    return tuple(turns)


async def conversation_of(
    doors: Doors,
    said: Sequence[tuple[str, str, Sequence[CellChoice]]],
    named: dict[str, Int64],
    pieces: Sequence[Evidence],
    wish: Wish,
) -> Conversation:
    """said: role, words and cells of each message, the last one the user's. named: the selections that the
    evidence is on; none where the question was answered with a search, whose hits are the cells then.
    """
    turns: list[Turn] = []
    cells: list[Int64] = []
    for role, text, choices in said:
        if role == "system":
            continue
        # Without a chat model nobody reads the cells of earlier turns.
        is_read = role == "user" and doors.chat is not None
        own = [await doors.chosen(choice) for choice in choices] if is_read else []
        own = [ids for ids in own if len(ids)]
        turns.append(Turn("user" if role == "user" else "assistant", text.strip(), len(own)))
        cells += own
    last = turns[-1]
    turns[-1] = replace(last, text=last.text or DEFAULT_QUESTION)
    if not cells and doors.chat is not None:
        spans = [np.arange(start, stop) for piece in pieces for start, stop in piece.cells]
        cells = [np.concatenate(spans).astype(np.int64)]
        turns[-1] = replace(turns[-1], n_cells=1)
    return Conversation(turns_of(turns), tuple(cells), named, pieces, wish)
