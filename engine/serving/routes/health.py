"""Whether the server lives and is ready, and its numbers for Prometheus: open to all who reach the port."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from engine.serving.doors import ROOMS, Doors
from engine.serving.problems import Problem, documented
from engine.serving.routes.asking import WithDoors, answers

router = APIRouter(tags=["health"], responses=documented())

_READY_SECONDS = 5.0


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(doors: Doors = WithDoors) -> dict[str, Any]:
    """Every room answers, or 503. refused: why a newer version of the index is not the one that is served."""
    rooms = {name: getattr(doors, name) for name in ROOMS}
    loaded = {name: room for name, room in rooms.items() if room is not None}
    try:
        async with asyncio.timeout(_READY_SECONDS):
            facts = [await room.facts.remote() for room in loaded.values()]
    except TimeoutError as error:
        raise Problem(503, "not_ready", "a model does not answer yet", {"Retry-After": "5"}) from error
    cells = facts[0]
    return {
        "status": "ready",
        "rooms": list(loaded),
        **{name: cells[name] for name in ("n_cells", "version", "refused")},
    }


@router.get("/metrics", response_class=Response, responses=answers("text/plain"))
async def metrics() -> Response:
    """Requests and seconds of this door, in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
