"""Who words an answer: nobody but the evidence, a chat model here, or a language model elsewhere.

Whoever it is, the evidence was gathered before, and every sentence is checked against it as it is complete.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

from engine.serving.chat.answers import checked, from_evidence
from engine.serving.chat.conversation import Conversation
from engine.serving.chat.elsewhere import from_language_model
from engine.serving.doors import Doors
from engine.serving.problems import Problem

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


async def answer_to(doors: Doors, conversation: Conversation) -> AsyncGenerator[str, None]:
    """The answer in pieces. Raises Problem; closing it ends the work wherever it is done."""
    if doors.settings.language_model is not None:
        said = from_language_model(doors, conversation)
    elif doors.chat is not None:
        said = _from_chat_model(doors, conversation)
    else:
        said = _from_evidence(conversation)
        async for word in said:
            yield word
        return
    waiting, is_first = "", True
    async with aclosing(_in_time(said, doors.settings.limits.answer_seconds)) as pieces:
        async for piece in pieces:
            # A model's first token brings the space before its word.
            waiting += piece.lstrip() if is_first else piece
            is_first = is_first and not waiting
            *complete, waiting = _SENTENCE_END.split(waiting)
            for sentence in complete:
                yield await checked(doors, sentence, conversation.pieces) + " "
    if waiting.strip():
        yield await checked(doors, waiting, conversation.pieces)


async def _from_evidence(conversation: Conversation) -> AsyncGenerator[str, None]:
    cells = {name: len(ids) for name, ids in conversation.named.items()}
    text = from_evidence(conversation.question, conversation.pieces, cells)
    for number, word in enumerate(text.split(" ")):
        yield word if not number else f" {word}"


async def _from_chat_model(doors: Doors, conversation: Conversation) -> AsyncGenerator[str, None]:
    facts = await doors.chat.facts.remote()
    top_genes = await conversation.top_genes(doors) if facts["top_genes"] else []
    means_NU = await conversation.means(doors)
    pieces = doors.chat.answer.stream(list(conversation.turns), means_NU, top_genes, conversation.wish)
    async with aclosing(pieces):
        async for piece in pieces:
            yield piece


async def _in_time(said: AsyncGenerator[str, None], seconds: float) -> AsyncGenerator[str, None]:
    """The same pieces. Raises Problem 504 when they are not all there in time: a slow model never hangs."""
    end = asyncio.get_running_loop().time() + seconds
    async with aclosing(said):
        while True:
            try:
                async with asyncio.timeout_at(end):
                    piece = await anext(said, None)
            except TimeoutError as error:
                raise Problem(504, "timed_out", f"no whole answer within {seconds:.0f} s") from error
            if piece is None:
                return
            yield piece
