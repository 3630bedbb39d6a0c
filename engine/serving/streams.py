"""Answers made while they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

# The loop itself remembers no task.
_ENDING: set[asyncio.Task[None]] = set()


def end(work: Coroutine[Any, Any, None]) -> None:
    """Do the last of a stream's work in a task of its own: who is cancelled may not wait for anything."""
    task = asyncio.create_task(work)
    _ENDING.add(task)
    task.add_done_callback(_ENDING.discard)


class Stream(StreamingResponse):
    """Closes what it streams however it ends. (The framework's leaves that to the garbage collector when a
    caller hangs up or is given up while a part is sent.)
    """

    def __init__(self, parts: AsyncGenerator[Any, None], media_type: str, **more: Any) -> None:
        super().__init__(parts, media_type=media_type, **more)
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            end(self._parts.aclose())
