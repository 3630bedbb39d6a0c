"""Requests that wait at the same time are done together, and nobody waits for company.

While one batch runs, those that come are kept and make the next one; a request that finds nothing running
starts at once. (`serve.batch` lets every batch wait for a while instead: milliseconds for whoever is alone.)
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

One = TypeVar("One")
Answer = TypeVar("Answer")


class Batches(Generic[One, Answer]):
    """`answer(requests) -> answers` runs in a thread, one batch at a time; an answer that is an Exception is
    raised at the request it belongs to. Use from one event loop.
    """

    def __init__(self, answer: Callable[[list[One]], Sequence[Answer | Exception]], most: int) -> None:
        self._answer, self._most = answer, most
        self._waiting: deque[tuple[One, asyncio.Future[Answer]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, request: One) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            try:
                answers = await asyncio.to_thread(self._answer, [request for request, _ in batch])
            except Exception as error:  # noqa: BLE001 - raised at everyone who waits for it
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                # Whoever hung up is not waiting any more.
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
