"""Where a room is: inside the door's own process, or a deployment of its own. Both have one face:
`place.method.remote(...)` is awaited.

Between two replicas a call takes milliseconds; on one machine with one of each there is nothing to gain by
it. Either way a room has one thread, so rooms need not be safe for several.
"""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray.serve.handle import DeploymentHandle

from engine.serving.settings import Settings


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

        return _Method(remote)


class Elsewhere:
    """A room behind the handle of a deployment of `RoomReplica`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> _Method:
        async def remote(*arguments: Any) -> Any:
            return await self._handle.call.remote(name, *arguments)

        return _Method(remote)


class _Method:
    def __init__(self, remote: Any) -> None:
        self.remote = remote


class RoomReplica:
    """A deployment's replica with a room in it. (Serve would run several calls of a room at once.)"""

    def __init__(self, room: type, settings: Settings) -> None:
        self._inside = Inside(room(settings))

    async def call(self, method: str, *arguments: Any) -> Any:
        return await getattr(self._inside, method).remote(*arguments)

    async def reconfigure(self, config: dict[str, Any]) -> None:
        if hasattr(self._inside.room, "reconfigure"):
            await self.call("reconfigure", config)

    def check_health(self) -> None:
        if hasattr(self._inside.room, "check_health"):
            self._inside.room.check_health()
