"""What every route takes from a request: the doors, and the right to knock."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, Request

from engine.serving.access import Permission
from engine.serving.doors import Doors


def doors_of(request: Request) -> Doors:
    doors: Doors = request.app.state.doors
    return doors


def needs(permission: Permission) -> Any:
    """A dependency that lets callers with this permission in."""

    def admit(request: Request) -> str:
        caller: str = request.app.state.access.admit(request, permission)
        return caller

    return Depends(admit)


WithDoors = Depends(doors_of)
