"""What every route takes from a request: the doors, and the right to knock."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request

from engine.serving.access import Permission
from engine.serving.doors import Doors


# Coroutines, though they wait for nothing: the framework hands plain functions to another thread.
async def doors_of(request: Request) -> Doors:
    doors: Doors = request.app.state.doors
    return doors


def needs(permission: Permission) -> Any:
    """A dependency that lets callers with this permission in."""

    async def admit(request: Request) -> str:
        caller: str = request.app.state.access.admit(request, permission)
        return caller

    return Depends(admit)


WithDoors = Depends(doors_of)


def answers(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """In the API's own description: bytes, text or events, where an answer is not plain JSON."""
    schemas = {EVENTS: {"type": "object", "properties": {"data": {"type": "string"}}}}
    octets = {"type": "string", "format": "binary"}
    return {200: {"content": {media: {"schema": schemas.get(media, octets)} for media in media_types}}}


OCTETS = "application/octet-stream"
# Described by one of them, as OpenAPI before 3.2 has it.
EVENTS = "text/event-stream"
