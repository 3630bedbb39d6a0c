"""Where a room is: inside the door's own process, or a deployment of its own. Both have one face:
`place.method.remote(...)` is awaited.

Between two replicas a call takes milliseconds; on one machine with one of each there is nothing to gain by
it. Either way a room has one thread, so rooms need not be safe for several.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, NamedTuple

from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from engine.models.errors import ModelError
from engine.serving.problems import Problem
from engine.serving.settings import Settings
from storage.errors import InputError

# Pauses before a lost replica's question is asked again: until its death is known, it may be chosen again.
_AGAIN_SECONDS = (0.05, 0.5, 2.0)


class Inside:
    """A room in this process: its methods run in its thread, or are awaited if they are coroutines."""

    def __init__(self, room: Any) -> None:
        self.room = room
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=type(room).__name__)

    def __getattr__(self, name: str) -> _Method:
        method = getattr(self.room, name)

        async def remote(*arguments: Any) -> Any:
            if inspect.iscoroutinefunction(method):
                return await method(*arguments)
            return await asyncio.get_running_loop().run_in_executor(self._thread, method, *arguments)

        async def stream(*arguments: Any) -> AsyncGenerator[Any, None]:
            loop = asyncio.get_running_loop()
            parts = method(*arguments)
            try:
                # A part at a time, so that several streams and other calls take turns in the thread.
                while (part := await loop.run_in_executor(self._thread, next, parts, None)) is not None:
                    yield part
            finally:
                # Behind the part that is being made now, if one is.
                self._thread.submit(parts.close)

        return _Method(remote, stream)


class Refused(NamedTuple):
    """What a room raised for its caller. It travels as an answer: what a replica raises is logged by Serve,
    message and all, and messages hold questions.
    """

    error: Exception


class Elsewhere:
    """A room behind the handle of a deployment of `RoomReplica`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> _Method:
        async def remote(*arguments: Any) -> Any:
            answer = await self._asked(name, *arguments)
            if isinstance(answer, Refused):
                raise answer.error
            return answer

        async def stream(*arguments: Any) -> AsyncGenerator[Any, None]:
            response = self._handle.options(stream=True).flow.remote(name, *arguments)
            try:
                async for part in response:
                    if isinstance(part, Refused):
                        raise part.error
                    yield part
            except RayActorError as error:
                # Half of it is said: it cannot be asked again.
                detail = "the replica that made this was lost; ask again"
                raise Problem(503, "replica_lost", detail, {"Retry-After": "1"}) from error
            finally:
                response.cancel()

        return _Method(remote, stream)

    async def _asked(self, name: str, *arguments: Any) -> Any:
        """Asks again when the replica is lost: rooms answer questions, so twice does no harm."""
        for seconds in _AGAIN_SECONDS:
            try:
                return await self._handle.call.remote(name, *arguments)
            except RayActorError:
                await asyncio.sleep(seconds)
        try:
            return await self._handle.call.remote(name, *arguments)
        except RayActorError as error:
            detail = "the replicas that were asked were lost, one after the other; ask again"
            raise Problem(503, "replica_lost", detail, {"Retry-After": "1"}) from error


class _Method:
    """remote: the call's result, to be awaited. stream: what a generator method makes, part by part; closing
    it closes the generator."""

    def __init__(self, remote: Any, stream: Any) -> None:
        self.remote, self.stream = remote, stream


class RoomReplica:
    """A deployment's replica with a room in it. (Serve would run several calls of a room at once.)"""

    def __init__(self, room: type, settings: Settings) -> None:
        self._inside = Inside(room(settings))

    async def call(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(self._inside, method).remote(*arguments)
        except (Problem, InputError, ModelError) as error:
            return Refused(error)

    async def flow(self, method: str, *arguments: Any) -> AsyncGenerator[Any, None]:
        """As `call`, of a method that is a generator."""
        async with aclosing(getattr(self._inside, method).stream(*arguments)) as parts:
            try:
                async for part in parts:
                    yield part
            except (Problem, InputError, ModelError) as error:
                yield Refused(error)

    async def reconfigure(self, config: dict[str, Any]) -> None:
        if hasattr(self._inside.room, "reconfigure"):
            await self._inside.reconfigure.remote(config)

    def check_health(self) -> None:
        if hasattr(self._inside.room, "check_health"):
            self._inside.room.check_health()
