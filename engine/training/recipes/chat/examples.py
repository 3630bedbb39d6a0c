"""Conversations as training examples: token ids, and the cells' vectors in the joint space.

Legend: B conversations of a micro-batch, S tokens of the longest, N selections of cells, U width of the joint
space, C conversations of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from engine.models import chat
from engine.training.recipe import Batch, Share
from engine.training.recipes.chat.conversations import Conversation, read_conversations
from storage.checkpoints import local_copy
from storage.embeddings import Embeddings
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.training.recipes.chat.recipe import ChatRecipe

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


class Examples:
    """All conversations of a recipe, tokenised. Get them with `examples_of`, which keeps the last ones.

    learnt, held_out: ascending places in the file. names: `id` of each conversation.
    """

    def __init__(
        self, conversations: Sequence[Conversation], tokeniser: chat.ChatTokeniser, cells: CellVectors
    ) -> None:
        self.names = [conversation.name for conversation in conversations]
        self.groups = [conversation.group for conversation in conversations]
        self.turns, self.encoded, self.cells_NU = [], [], []
        for conversation in conversations:
            turns, encoded = _fitting(conversation, tokeniser)
            n_cells = sum(turn.n_cells for turn in turns)
            self.turns.append(turns)
            self.encoded.append(encoded)
            self.cells_NU.append(cells.of(conversation)[:n_cells])

    @property
    def answer_tokens(self) -> float:
        """Tokens of answers in a conversation, on average."""
        return float(np.mean([each.n_answer_tokens for each in self.encoded]))

    def split(self, share: float, seed: int) -> tuple[Int64, Int64]:
        """(learnt, held out): `share` of the cells that conversations are about, at random, with all that is
        said of them. Raises InputError when either would be empty though a share is asked for.
        """
        names = sorted(set(self.groups))
        n_held = round(share * len(names))
        if share and not 0 < n_held < len(names):
            raise InputError(
                f"--held-out-share {share}: of {len(names)} different cells that is {n_held}; it must leave "
                "some on both sides. Give another share, or 0 to hold nothing out."
            )
        order = np.random.default_rng([seed, len(names)]).permutation(len(names))[:n_held]
        held = {names[number] for number in order}
        is_held = np.array([group in held for group in self.groups])
        return np.flatnonzero(~is_held), np.flatnonzero(is_held)

    def batch(self, places: Int64) -> Batch:
        """CPU tensors ids_BS, labels_BS, mask_BS and cells_NU of these conversations."""
        ids_BS, labels_BS, mask_BS = chat.padded([self.encoded[place] for place in places])
        cells_NU = torch.from_numpy(np.concatenate([self.cells_NU[place] for place in places]))
        return {"ids_BS": ids_BS, "labels_BS": labels_BS, "mask_BS": mask_BS, "cells_NU": cells_NU}

    def batches(self, learnt: Int64, start_step: int, share: Share) -> Iterator[Batch]:
        """CPU micro-batches of one worker, without end. Every epoch has an order of its own."""
        for start, stop in share.ranges(start_step):
            yield self.batch(np.array([_place(learnt, at, share.seed) for at in range(start, stop)]))


class CellVectors:
    """Vectors of the cells that conversations name. Raises InputError when a name is there twice.

    names: of all cells, in the order of the embeddings. embeddings: None where they are still to be made:
    names are checked, and vectors are zeros.
    """

    def __init__(self, width: int, names: Sequence[str] = (), embeddings: Embeddings | None = None) -> None:
        self.width = width
        self._names, self._embeddings = names, embeddings
        self._rows = {name: row for row, name in enumerate(names)}
        if len(self._rows) < len(names):
            raise InputError("the names of the cells are not unique, so conversations cannot name them.")

    @classmethod
    def open(cls, path: str | None, width: int, n_cells: int | None = None) -> CellVectors:
        """Of embeddings by the joint model; no path where all vectors are in the conversations."""
        if path is None:
            return cls(width)
        found = Embeddings.open(path)
        if found.width != width:
            raise InputError(f"{path}: embeddings of {found.width} numbers; the joint model's have {width}.")
        return cls(width, [str(name) for name in found.obs.index[:n_cells]], found)

    def of(self, conversation: Conversation) -> Float32:
        """cells_NU. Raises InputError, naming the conversation, for cells that are not there."""
        found = []
        for cell in conversation.cells:
            vector = self._by_name(cell, conversation) if isinstance(cell, str) else np.array(cell)
            if vector.shape != (self.width,):
                raise InputError(
                    f"conversation {conversation.name}: a vector of {len(vector)} numbers; the joint model's "
                    f"have {self.width}."
                )
            if not np.isfinite(vector).all():
                raise InputError(
                    f"conversation {conversation.name}: cell {cell!r} has no gene that the joint model "
                    "knows, and so no embedding; leave it out."
                )
            found.append(vector)
        return np.stack(found).astype(np.float32)

    def _by_name(self, cell: str, conversation: Conversation) -> npt.NDArray[Any]:
        if not self._names:
            raise InputError(
                f"conversation {conversation.name} names cell {cell!r}: give --cells STORE or --embeddings "
                "DIR, or vectors in place of names."
            )
        if cell not in self._rows:
            raise InputError(
                f"conversation {conversation.name}: there is no cell {cell!r}; names look like "
                f"{', '.join(map(repr, self._names[:3]))}."
            )
        if self._embeddings is None:
            return np.zeros(self.width)
        row: npt.NDArray[Any] = self._embeddings.rows(np.array([self._rows[cell]]))[0]
        return row


@lru_cache(maxsize=1)
def examples_of(recipe: ChatRecipe) -> Examples:
    """Opened once in a process."""
    conversations = read_conversations(recipe.conversations)
    tokeniser = chat.load_tokeniser(local_copy(recipe.language_model))
    vectors = CellVectors.open(recipe.embeddings, recipe.config.cell_width, recipe.n_cells)
    return Examples(conversations, chat.ChatTokeniser(tokeniser, recipe.config), vectors)


def _fitting(
    conversation: Conversation, tokeniser: chat.ChatTokeniser
) -> tuple[list[chat.Turn], chat.Encoded]:
    """Without its last exchanges, where it is longer than the model reads."""
    turns = list(conversation.turns)
    encoded = tokeniser.encode(turns)
    while len(encoded) > tokeniser.config.max_tokens and len(turns) > 2:
        turns = turns[:-2]
        encoded = tokeniser.encode(turns)
    if len(encoded) > tokeniser.config.max_tokens or not any(turn.n_cells for turn in turns):
        raise InputError(
            f"conversation {conversation.name}: its first exchange with cells does not fit into --max-tokens "
            f"{tokeniser.config.max_tokens} ({len(tokeniser.encode(conversation.turns))} tokens in all)."
        )
    return turns, encoded


def _place(learnt: Int64, at: int, seed: int) -> int:
    epoch, within = divmod(at, len(learnt))
    return int(learnt[_order(len(learnt), seed, epoch)[within]])


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> Int64:
    return np.random.default_rng([seed, epoch]).permutation(n)
