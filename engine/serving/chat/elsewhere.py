"""A language model behind an OpenAI-compatible server: given the evidence as text, and cells as soft tokens
where the server takes prompt embeddings (vLLM with --enable-prompt-embeds).

Source: vLLM's chat content part {"type": "prompt_embeds", "data": base64 of a saved tensor}.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from engine.serving.chat.conversation import Conversation
from engine.serving.chat.evidence import Evidence
from engine.serving.doors import Doors
from engine.serving.problems import Problem

KEY_VARIABLE = "SYNCYTIUM_LANGUAGE_MODEL_KEY"
# Busy or restarting: worth another call, soon and not often, for somebody waits.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_WAITS = (0.2, 0.6)
_CONNECT_SECONDS = 5.0
# What a server answers to a kind of content part that it does not know.
_NOT_KNOWN = frozenset({400, 404, 415, 422, 501})

_INSTRUCTIONS = (
    "You describe single cells to a biologist. Use only the numbered evidence. After every claim cite the "
    "piece it rests on as [E1]. If the evidence does not answer the question, say so. Do not speculate about "
    "the donor. Be brief."
)
# Servers that have refused soft tokens: not asked with them again.
_text_only: set[str] = set()


class _RefusedEmbeddings(Exception):
    """The server knows no prompt embeddings."""


async def from_language_model(doors: Doors, conversation: Conversation) -> AsyncGenerator[str, None]:
    """Pieces of its answer as they come. Raises Problem 503 while it is down, 502 when it fails."""
    soft: list[str] = []
    if doors.chat is not None and str(doors.settings.language_model) not in _text_only:
        soft = await doors.chat.soft_tokens.remote(await conversation.means(doors))
    try:
        async for piece in _streamed(doors, _body(doors, conversation, soft), has_soft=bool(soft)):
            yield piece
    except _RefusedEmbeddings:
        _text_only.add(str(doors.settings.language_model))
        async for piece in _streamed(doors, _body(doors, conversation, []), has_soft=False):
            yield piece


def _body(doors: Doors, conversation: Conversation, soft: Sequence[str]) -> dict[str, Any]:
    evidence = "\n".join(_line(piece) for piece in conversation.pieces)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": f"{_INSTRUCTIONS}\n\nEvidence:\n{evidence}"}
    ]
    rest = list(soft)
    for turn in conversation.turns:
        content: str | list[dict[str, str]] = turn.text
        if soft and turn.n_cells:
            own, rest = rest[: turn.n_cells], rest[turn.n_cells :]
            content = [{"type": "text", "text": turn.text}]
            content += [{"type": "prompt_embeds", "data": each} for each in own]
        messages.append({"role": turn.role, "content": content})
    return {
        "model": doors.settings.language_model_name,
        "stream": True,
        "temperature": conversation.wish.temperature,
        "top_p": conversation.wish.top_p,
        "max_tokens": conversation.wish.tokens,
        "messages": messages,
    }


def _line(piece: Evidence) -> str:
    return f"[{piece.id}] {piece.summary}. {json.dumps(piece.facts)[:2_000]}"


async def _streamed(doors: Doors, body: dict[str, Any], *, has_soft: bool) -> AsyncIterator[str]:
    timeout = httpx.Timeout(doors.settings.limits.answer_seconds, connect=_CONNECT_SECONDS)
    async with httpx.AsyncClient(timeout=timeout) as client:
        try:
            async with _response(client, doors, body, has_soft=has_soft) as response:
                async for line in response.aiter_lines():
                    if line.startswith("data:") and line[5:].strip() != "[DONE]":
                        yield _delta(line[5:])
        except httpx.HTTPError as error:
            detail = f"the language model broke off ({type(error).__name__})"
            raise Problem(502, "language_model_failed", detail) from error


@asynccontextmanager
async def _response(
    client: httpx.AsyncClient, doors: Doors, body: dict[str, Any], *, has_soft: bool
) -> AsyncIterator[httpx.Response]:
    """An answer that has begun; a server that is down or busy is asked again, a bounded number of times."""
    url = f"{str(doors.settings.language_model).rstrip('/')}/chat/completions"
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    problem = ""
    for wait in (*_WAITS, None):
        try:
            request = client.build_request("POST", url, json=body, headers=headers)
            response = await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError) as error:
            problem = f"cannot be reached ({type(error).__name__})"
        else:
            try:
                if response.status_code == 200:
                    yield response
                    return
                if has_soft and response.status_code in _NOT_KNOWN:
                    raise _RefusedEmbeddings
                problem = f"answered {response.status_code}"
                if response.status_code not in _PASSING:
                    raise Problem(502, "language_model_failed", f"the language model {problem}")
            finally:
                await response.aclose()
        if wait is not None:
            await asyncio.sleep(wait)
    raise Problem(503, "language_model_down", f"the language model {problem}", {"Retry-After": "5"})


def _delta(line: str) -> str:
    try:
        choices = json.loads(line).get("choices") or [{}]
        return str(choices[0].get("delta", {}).get("content") or "")
    except (ValueError, AttributeError, IndexError, KeyError, TypeError) as error:
        raise Problem(502, "language_model_failed", "the language model sent what is not a chunk") from error
