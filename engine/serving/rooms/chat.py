"""A chat model: answers token by token, or soft tokens for a language model that runs elsewhere.

Legend: N selections of cells, U width of the joint space.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.models import chat
from engine.serving.chat.conversation import Wish
from engine.serving.problems import Problem
from engine.serving.settings import Settings
from storage.checkpoints import local_copy

Float32 = npt.NDArray[np.float32]


class ChatRoom:
    """Several conversations take turns, a token each: the room's one thread makes them.

    With a language model elsewhere the room holds the projector alone.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.chat is None:
            raise ValueError("a room of conversations needs a chat model")
        self._limits, self._open = settings.limits, 0
        self._directory = local_copy(settings.chat)
        self._config = chat.load_config(self._directory)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model, self._projector = None, chat.load_projector(self._directory)
        if settings.language_model is None:
            self._model = chat.load(self._directory).to(self._device)
            self._model.language_model.to(self._device)

    def facts(self) -> dict[str, Any]:
        return {
            "cell_width": self._config.cell_width,
            "soft_tokens": self._config.n_tokens,
            "top_genes": self._config.top_genes,
            "answers": self._model is not None,
        }

    def answer(
        self, turns: Sequence[chat.Turn], means_NU: Float32, top_genes: Sequence[str], wish: Wish
    ) -> Iterator[str]:
        """Pieces of the answer to a conversation. Closing it ends the work.

        means_NU: mean vector of each selection in the turns, in order. top_genes: of the first one, for
        models whose conversations begin with them. Raises Problem 503 when too many are going on.
        """
        model = self._answering()
        if self._open >= self._limits.conversations:
            raise Problem(503, "overloaded", "too many conversations at once", {"Retry-After": "5"})
        self._open += 1
        try:
            ids_S, cells_NU = self._prompt(model, turns, means_NU, top_genes, wish.tokens)
            sampling = chat.Sampling(
                wish.temperature, wish.top_p, self._config.repetition_penalty, wish.tokens
            )
            yield from self._in_time(chat.generate(model, ids_S, cells_NU, sampling))
        finally:
            self._open -= 1

    def complete(self, prompt: str, vectors_NU: Float32, wish: Wish) -> Iterator[str]:
        """As `answer`, to a prompt that was written elsewhere, with `<image>` for each vector."""
        model = self._answering()
        ids_S = model.tokeniser.encode_prompt(prompt)
        sampling = chat.Sampling(wish.temperature, wish.top_p, self._config.repetition_penalty, wish.tokens)
        vectors = torch.from_numpy(np.asarray(vectors_NU, np.float32))
        yield from self._in_time(chat.generate(model, ids_S, vectors, sampling))

    def soft_tokens(self, means_NU: Float32) -> list[str]:
        """Of each selection, as vLLM takes prompt embeddings: base64 of a saved tensor [tokens, width]."""
        soft_NKD = self._projector(self._vectors(means_NU))
        return [_saved(soft_KD) for soft_KD in soft_NKD.detach()]

    def _answering(self) -> chat.ChatModel:
        if self._model is None:
            raise ValueError("this room has no language model of its own")
        return self._model

    def _prompt(
        self,
        model: chat.ChatModel,
        turns: Sequence[chat.Turn],
        means_NU: Float32,
        top_genes: Sequence[str],
        room: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._config.top_genes and top_genes:
            turns = chat.original_turns(turns, top_genes)
        kept, dropped = chat.fitted(turns, model.tokeniser, min(room, self._config.max_tokens // 2))
        if dropped == len(means_NU):
            # What the conversation is about goes with its last question.
            kept[-1], dropped = chat.Turn("user", kept[-1].text, 1), dropped - 1
        return model.tokeniser.encode(kept).ids_S, self._vectors(means_NU[dropped:])

    def _vectors(self, means_NU: Float32) -> torch.Tensor:
        vectors_NU = torch.from_numpy(np.array(means_NU, np.float32))
        return torch.nn.functional.normalize(vectors_NU, dim=1) if self._config.unit else vectors_NU

    def _in_time(self, pieces: Iterator[str]) -> Iterator[str]:
        end = time.monotonic() + self._limits.answer_seconds
        for piece in pieces:
            yield piece
            if time.monotonic() > end:
                seconds = self._limits.answer_seconds
                raise Problem(504, "timed_out", f"no whole answer within {seconds:.0f} s")


def _saved(soft_KD: torch.Tensor) -> str:
    content = io.BytesIO()
    torch.save(soft_KD.contiguous().clone(), content)
    return base64.b64encode(content.getvalue()).decode()
