"""Conversations to token ids: the same ids in training and in serving, up to where an answer begins.

Legend: S tokens of a conversation, B conversations, soft tokens included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.models.chat.config import ChatConfig
from engine.models.chat.templates import CELLS, TEMPLATES, Turn, write
from engine.models.errors import ModelError

# In place of an id: a soft token goes here. As a label: nothing is to be said here (torch's own number).
SOFT, NO_LABEL = -1, -100


@dataclass(frozen=True)
class Encoded:
    """ids_S: int64, SOFT at soft tokens. labels_S: the id where the assistant speaks, else NO_LABEL."""

    ids_S: Tensor
    labels_S: Tensor

    def __len__(self) -> int:
        return len(self.ids_S)

    @property
    def n_answer_tokens(self) -> int:
        return int((self.labels_S != NO_LABEL).sum())


class ChatTokeniser:
    """A language model's tokeniser with the conversation template of a chat model.

    Text between cells is tokenised as a whole, as LLaVA does: a turn's first token may depend on the last
    character before it. Which tokens are an answer's is told by their places in the text.
    """

    def __init__(self, tokeniser: Any, config: ChatConfig) -> None:
        self.tokeniser, self.config = tokeniser, config
        self.template = TEMPLATES[config.template]
        self.stop: str = self.template.stop or tokeniser.eos_token or ""
        self.stop_id: int = self._require_stop()
        beginning = tokeniser("")["input_ids"]
        self._first = [i for i in beginning if i == tokeniser.bos_token_id]

    def encode(self, turns: Sequence[Turn]) -> Encoded:
        """A whole conversation. Raises ModelError when the sides do not take turns."""
        written = write(turns, self.template, self.stop)
        ids, labels, at = list(self._first), [NO_LABEL] * len(self._first), 0
        for number, piece in enumerate(written.text.split(CELLS)):
            if number:
                ids += [SOFT] * self.config.n_tokens
                labels += [NO_LABEL] * self.config.n_tokens
                at += len(CELLS)
            found = self.tokeniser(piece, add_special_tokens=False, return_offsets_mapping=True)
            for token, (_, end) in zip(found["input_ids"], found["offset_mapping"], strict=True):
                said = any(start < at + end <= stop for start, stop in written.answers)
                ids.append(token)
                labels.append(token if said else NO_LABEL)
            at += len(piece)
        return Encoded(torch.tensor(ids), torch.tensor(labels))

    def text(self, turns: Sequence[Turn]) -> str:
        """The conversation as a text, `<image>` for cells."""
        return write(turns, self.template, self.stop).text

    def encode_prompt(self, prompt: str) -> Tensor:
        """ids_S of a text that was written elsewhere, in which `<image>` stands for cells."""
        ids = list(self._first)
        for number, piece in enumerate(prompt.split(CELLS)):
            ids += [SOFT] * self.config.n_tokens * bool(number)
            ids += self.tokeniser(piece, add_special_tokens=False)["input_ids"]
        return torch.tensor(ids)

    def _require_stop(self) -> int:
        found = self.tokeniser.convert_tokens_to_ids(self.stop) if self.stop else None
        if found is None or found == self.tokeniser.unk_token_id:
            raise ModelError(
                f"template {self.config.template}: the tokeniser has no token {self.stop or 'for the end'!r} "
                f"to end an answer with; choose another of {', '.join(TEMPLATES)}"
            )
        return int(found)


def fitted(turns: Sequence[Turn], tokeniser: ChatTokeniser, room: int) -> tuple[list[Turn], int]:
    """The conversation without its oldest exchanges, so many that `room` tokens are left for an answer; and
    the number of selections of cells that went with them.

    Raises ModelError when the last question alone is too long.
    """
    kept, dropped = list(turns), 0
    while len(tokeniser.encode(kept)) > tokeniser.config.max_tokens - room:
        if len(kept) < 3:
            raise ModelError(
                f"the question is longer than this chat model reads ({tokeniser.config.max_tokens} tokens)"
            )
        gone, kept = kept[:2], kept[2:]
        dropped += sum(turn.n_cells for turn in gone)
    return kept, dropped


def padded(encoded: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor]:
    """(ids_BS, labels_BS, mask_BS): of a batch, filled up on the right; mask: 1 at tokens."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids_BS = pad([each.ids_S for each in encoded], batch_first=True, padding_value=0)
    labels_BS = pad([each.labels_S for each in encoded], batch_first=True, padding_value=NO_LABEL)
    mask_BS = pad([torch.ones(len(each), dtype=torch.int64) for each in encoded], batch_first=True)
    return ids_BS, labels_BS, mask_BS
