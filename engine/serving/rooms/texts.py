"""The text side of a joint model: questions and texts to vectors, several requests at once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from engine.models.errors import ModelError
from engine.retrieval import questions
from engine.retrieval.texts import Float32, Question, Texts, in_template
from engine.serving.batching import Batches
from engine.serving.settings import Settings
from storage.errors import InputError
from storage.index import VectorIndex

Asked = tuple[str, str | None]

# Texts of a batch: beyond it a tower gains nothing, and the first to ask waits for the last.
_QUESTIONS, _REQUESTS = 32, 16
# Questions that are answered again without another thread: a session asks the same ones.
_REMEMBERED = 4_096


class TextRoom:
    """Loads once; what is asked while it is busy is embedded together next."""

    def __init__(self, settings: Settings) -> None:
        index = VectorIndex.open(settings.index, settings.index_version)
        self._texts = Texts.of_index(index, settings.joint)
        self._texts.side.multiply_in(settings.text_precision)
        self._questions: Batches[Asked, Question] = Batches(self._answer, _QUESTIONS)
        self._embeddings: Batches[list[str], Float32] = Batches(self._embed, _REQUESTS)
        # Touched by the event loop alone; the thread that embeds has a memory of its own, of phrases.
        self._answered: OrderedDict[Asked, Question] = OrderedDict()
        # The first text pays for what torch sets up.
        self._texts.vectors(["cell"])

    def facts(self) -> dict[str, Any]:
        return {
            "joint": self._texts.path,
            "fingerprint": self._texts.model,
            "width": self._texts.width,
            "temperature": self._texts.temperature,
        }

    async def question(self, text: str, template: str | None) -> Question:
        """Raises InputError for a query that cannot be read, ModelError for a template that is none."""
        asked = (text, template)
        if asked not in self._answered:
            self._answered[asked] = await self._questions(asked)
            while len(self._answered) > _REMEMBERED:
                self._answered.popitem(last=False)
        self._answered.move_to_end(asked)
        return self._answered[asked]

    async def vectors(self, texts: list[str]) -> Float32:
        """Unit vectors, float32 `[B, U]`."""
        return await self._embeddings(texts)

    def tokens(self, texts: list[str]) -> int:
        """Tokens that texts have for the tower, as a bill would count them."""
        return int(self._texts.side.text_tower.tokenise(texts).mask_BS.sum())

    def _answer(self, asked: list[Asked]) -> list[Question | Exception]:
        together: list[str] = []
        for text, template in asked:
            try:
                together += in_template([term.phrase for term in questions.parse(text)], template)
            except (InputError, ModelError):
                # Raised below, at the request it belongs to.
                continue
        self._texts.vectors(together)
        return [self._one(text, template) for text, template in asked]

    def _one(self, text: str, template: str | None) -> Question | Exception:
        try:
            return self._texts.question(text, template)
        except (InputError, ModelError) as error:
            return error

    def _embed(self, requests: list[list[str]]) -> list[Float32]:
        together = self._texts.vectors([text for texts in requests for text in texts])
        return np.split(together, np.cumsum([len(texts) for texts in requests])[:-1])
