"""Answers of a chat model, piece by piece as they are made.

Legend: S tokens, N selections, U width of the joint space, D width of the language model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.models.chat.model import ChatModel
from engine.models.errors import ModelError

# Shown for bytes that are no character yet: the rest of it is in the next token.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
# CellWhisperer samples only above this temperature.
_GREEDY = 1e-3


@dataclass(frozen=True)
class Sampling:
    """temperature: 0 always takes the likeliest token. repetition_penalty: CellWhisperer's is 1.2.
    seed: of the draws."""

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.repetition_penalty <= 0:
            raise ModelError("temperature must not be negative, top_p in (0, 1], the penalty positive")


def generate(model: ChatModel, ids_S: Tensor, cells_NU: Tensor, sampling: Sampling) -> Iterator[str]:
    """Pieces of the answer to a prompt; closing the iterator ends the work.

    ids_S: of `ChatTokeniser`. cells_NU: one vector for each selection in the prompt, in order. Ends at the
    template's stop, at `max_new_tokens`, or where the language model's positions end.
    """
    device = next(model.projector.parameters()).device
    tokeniser = model.tokeniser
    ends = {tokeniser.stop_id, tokeniser.tokeniser.eos_token_id}
    random = torch.Generator(device="cpu").manual_seed(sampling.seed)
    with torch.inference_mode():
        x_1SD = model.embed(ids_S.unsqueeze(0).to(device), cells_NU.to(device))
        said: list[int] = []
        pieces = _Pieces(tokeniser.tokeniser)
        found = model.language_model(inputs_embeds=x_1SD, use_cache=True)
        for _ in range(min(sampling.max_new_tokens, _room(model, len(ids_S)))):
            token = _chosen(found.logits[0, -1].float().cpu(), said, sampling, random)
            if token in ends:
                break
            said.append(token)
            text = pieces.add(token)
            if text:
                yield text
            found = model.language_model(
                input_ids=torch.tensor([[token]], device=device),
                past_key_values=found.past_key_values,
                use_cache=True,
            )
        rest = pieces.rest()
        if rest:
            yield rest


def _chosen(logits_V: Tensor, said: list[int], sampling: Sampling, random: torch.Generator) -> int:
    if sampling.repetition_penalty != 1 and said:
        before = torch.tensor(sorted(set(said)))
        old = logits_V[before]
        penalty = sampling.repetition_penalty
        logits_V[before] = torch.where(old > 0, old / penalty, old * penalty)
    if sampling.temperature <= _GREEDY:
        return int(logits_V.argmax())
    share_V, order_V = (logits_V / sampling.temperature).softmax(0).sort(descending=True)
    # The likeliest tokens that make up top_p together, the first always among them.
    share_V[share_V.cumsum(0) - share_V >= sampling.top_p] = 0
    return int(order_V[torch.multinomial(share_V, 1, generator=random)])


def _room(model: ChatModel, n_tokens: int) -> int:
    most = getattr(model.language_model.config, "max_position_embeddings", None) or model.config.max_tokens
    if n_tokens >= most:
        raise ModelError(f"a prompt of {n_tokens} tokens; the language model reads {most}")
    return int(most) - n_tokens


class _Pieces:
    """Tokens to text as they come: a token's text may depend on the one before, and on the one after it."""

    def __init__(self, tokeniser: Any) -> None:
        self._tokeniser = tokeniser
        self._ids: list[int] = []
        self._before = 0  # first token that the next ones are decoded with
        self._shown = 0  # tokens whose text is out

    def add(self, token: int) -> str:
        self._ids.append(token)
        text = self._new()
        if not text or text.endswith(_UNFINISHED):
            return ""
        self._before, self._shown = self._shown, len(self._ids)
        return text

    def rest(self) -> str:
        return self._new() if self._shown < len(self._ids) else ""

    def _new(self) -> str:
        known = self._decode(self._ids[self._before : self._shown])
        return self._decode(self._ids[self._before :])[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokeniser.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
