"""Conversations about cells: /v1/chat/completions, as OpenAI's clients speak, and /v1/feedback.

Cells come into a message as a content part, `{"type": "cells", "cells": {"ranges": [[12, 40]]}}`. Evidence is
gathered before a word is made; the first chunk (and a whole answer) carries it as `evidence`.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.serving.chat.backends import answer_to
from engine.serving.chat.conversation import Wish, conversation_of
from engine.serving.chat.evidence import Evidence, gather, hits_evidence
from engine.serving.doors import CellChoice, Doors
from engine.serving.problems import Problem, documented, of_error
from engine.serving.routes.asking import EVENTS, WithDoors, answers, needs
from engine.serving.streams import Stream, end

router = APIRouter(tags=["chat"], responses=documented(404, 501, 502, 504))

# Hits that a question without a selection is answered from.
_HITS = 50
# Letters that stand for selections in sentences.
_NAMES = "ABCDEFGH"
_HEARTBEAT_SECONDS = 10.0


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str = Field(max_length=16_000)


class CellsPart(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["cells"]
    cells: CellChoice


# Where cells are said in other routes: taken and ignored here, they would be answered about others.
_MISPLACED = {*CellChoice.model_fields, "selections"}


def _no_cells_beside(given: Any) -> Any:
    """Fields of a request or a message. Raises ValueError for cells that are said outside `content`."""
    found = sorted(_MISPLACED & given.keys()) if isinstance(given, dict) else []
    if found:
        raise ValueError(
            f"{', '.join(found)} is no field here: cells go into a message's content, as a part "
            '{"type": "cells", "cells": {"ranges": [[12, 40]]}} beside {"type": "text", "text": ...}'
        )
    return given


Part = Annotated[TextPart | CellsPart, Field(discriminator="type")]


class Message(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "user", "assistant"]
    content: str | list[Part] = Field(max_length=16_000)

    _cells_are_parts = model_validator(mode="before")(_no_cells_beside)

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def choices(self) -> list[CellChoice]:
        if isinstance(self.content, str):
            return []
        return [part.cells for part in self.content if isinstance(part, CellsPart)]


class ChatRequest(BaseModel):
    """OpenAI's fields that mean nothing here (user, seed, ...) are taken and ignored. temperature, top_p:
    of a language model, where one words the answers."""

    model_config = ConfigDict(extra="ignore")

    model: str = "cells"
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: Literal[1] = 1

    _cells_are_parts = model_validator(mode="before")(_no_cells_beside)


class Feedback(BaseModel):
    model_config = ConfigDict(extra="forbid")

    answer: str = Field(pattern=r"^chatcmpl-[0-9a-f]{32}$")
    thumb: Literal["up", "down"]


@router.post(
    "/v1/chat/completions",
    dependencies=[needs("chat")],
    response_model=None,
    responses=answers(EVENTS),
)
async def completions(asked: ChatRequest, doors: Doors = WithDoors) -> Response:
    """An answer about the cells of the conversation, or about the cells that a question in words finds.

    Refused with the code `no_evidence` when there are no cells to speak of.
    """
    if len(asked.messages) > doors.settings.limits.messages:
        raise Problem(400, "too_many_messages", f"at most {doors.settings.limits.messages} messages")
    question = asked.messages[-1].text.strip()
    if asked.messages[-1].role != "user":
        raise Problem(400, "no_question", "the last message must be the user's")
    selections = await _selections(doors, asked.messages)
    if not question and not selections:
        raise Problem(400, "no_evidence", "no cells and no question: there is nothing to speak of")
    pieces = await _evidence(doors, question, selections)
    if not pieces:
        raise Problem(400, "no_evidence", "there is no evidence on these cells, so nothing is said of them")
    said = [(message.role, message.text, message.choices) for message in asked.messages]
    conversation = await conversation_of(doors, said, selections, pieces, _wish(doors, asked))
    words = answer_to(doors, conversation)
    answer = f"chatcmpl-{uuid.uuid4().hex}"
    if asked.stream:
        chunks = _chunks(answer, asked.model, words, pieces)
        return Stream(chunks, EVENTS, headers={"Cache-Control": "no-store"})
    limit = doors.settings.limits.answer_seconds
    try:
        async with asyncio.timeout(limit):
            text = "".join([part async for part in words])
    except TimeoutError as error:
        raise Problem(504, "timed_out", f"no answer within {limit:.0f} s") from error
    return JSONResponse(_whole(answer, asked.model, text, pieces))


async def _selections(doors: Doors, messages: list[Message]) -> dict[str, npt.NDArray[np.int64]]:
    """Cells of the last message that has any; several are called A, B, ..."""
    for message in reversed(messages):
        if message.role == "user" and message.choices:
            if len(message.choices) > len(_NAMES):
                raise Problem(400, "too_many_selections", f"at most {len(_NAMES)} selections in one message")
            cells = [await doors.chosen(choice) for choice in message.choices]
            if any(not len(ids) for ids in cells):
                raise Problem(400, "no_evidence", "a selection holds no cell, so nothing can be said of it")
            if len(cells) == 1:
                return {"these cells": cells[0]}
            return {f"the cells of {_NAMES[number]}": ids for number, ids in enumerate(cells)}
    return {}


async def _evidence(
    doors: Doors, question: str, selections: dict[str, npt.NDArray[np.int64]]
) -> list[Evidence]:
    if not selections:
        vector = await doors.question(question)
        found = await doors.cells.search.remote(vector.vector, _HITS, None, "cosine", "auto", None)
        hits = hits_evidence(question, found, 1)
        ids = np.array(sorted(hit["cell"] for hit in found["hits"]), np.int64)
        return [hits, *(await gather(doors, ids, "the cells found", 2))] if len(ids) else []
    pieces: list[Evidence] = []
    names = list(selections)
    for name, ids in selections.items():
        # Two selections are set against each other; more of them, each against all other cells.
        other = selections[names[1 - names.index(name)]] if len(names) == 2 else None
        pieces += await gather(doors, ids, name, len(pieces) + 1, other)
    return pieces


def _wish(doors: Doors, asked: ChatRequest) -> Wish:
    most = doors.settings.limits.answer_tokens
    wanted = asked.max_completion_tokens or asked.max_tokens or most
    return Wish(min(wanted, most), asked.temperature or 0.0, 1.0 if asked.top_p is None else asked.top_p)


def _whole(answer: str, model: str, text: str, pieces: list[Evidence]) -> dict[str, Any]:
    return {
        "id": answer,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": 0,
            "completion_tokens": len(text.split()),
            "total_tokens": len(text.split()),
        },
        "evidence": [piece.model_dump() for piece in pieces],
    }


async def _chunks(
    answer: str, model: str, words: AsyncGenerator[str, None], pieces: list[Evidence]
) -> AsyncGenerator[str, None]:
    """Server-sent events; a comment now and then keeps proxies from hanging up on a slow model."""

    def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        chunk = {
            "id": answer,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
            **more,
        }
        return f"data: {json.dumps(chunk)}\n\n"

    yield event({"role": "assistant", "content": ""}, evidence=[piece.model_dump() for piece in pieces])
    waiting = asyncio.ensure_future(anext(words, None))
    try:
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=_HEARTBEAT_SECONDS)
            if not done:
                yield ": waiting\n\n"
                continue
            part = waiting.result()
            if part is None:
                break
            yield event({"content": part})
            waiting = asyncio.ensure_future(anext(words, None))
        yield event({}, "stop")
    except Exception as error:  # noqa: BLE001 - the status line is sent: the error goes into the stream
        yield f"data: {json.dumps(_error_body(error))}\n\n"
    finally:
        waiting.cancel()
        end(_close(words, waiting))
    yield "data: [DONE]\n\n"


async def _close(words: AsyncGenerator[str, None], waiting: asyncio.Future[Any]) -> None:
    """Whoever hung up ends the language model's work, too."""
    await asyncio.wait({waiting})
    await words.aclose()


def _error_body(error: Exception) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(bytes(of_error("/v1/chat/completions", error).response().body))
    return body


@router.post("/v1/feedback", status_code=202, dependencies=[needs("chat")])
async def feedback(given: Feedback, request: Request, doors: Doors = WithDoors) -> dict[str, str]:
    """Keeps which answer was liked or not, if the server was started with --feedback; no text, no cells."""
    if doors.settings.feedback is None:
        raise Problem(501, "not_loaded", "this server keeps no feedback; start it with --feedback FOLDER")
    folder = Path(doors.settings.feedback)
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"answer": given.answer, "thumb": given.thumb, "time": int(time.time())})
    with (folder / f"{time.strftime('%Y-%m-%d')}.jsonl").open("a") as kept:
        kept.write(line + "\n")
    return {"status": "kept"}
