"""The pages about all features, as `dashboard` makes them: /dashboard/.

Page, style and script are for everyone who reaches the port, like the page at /; the numbers need a key where
there are keys, and the script brings it.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from engine.serving.doors import Doors
from engine.serving.problems import not_loaded
from engine.serving.routes.asking import WithDoors, needs

# Pages, no part of the API that programs call.
router = APIRouter(include_in_schema=False)

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


@router.get("/dashboard")
async def without_slash() -> RedirectResponse:
    """Names in the page are relative to its folder."""
    return RedirectResponse("dashboard/", 308)


@router.get("/dashboard/")
async def page(request: Request, doors: Doors = WithDoors) -> Response:
    return await _answer(request, doors, "")


@router.get("/dashboard/data/{name:path}", dependencies=[needs("read")])
async def numbers(request: Request, name: str, doors: Doors = WithDoors) -> Response:
    return await _answer(request, doors, f"data/{name}")


@router.get("/dashboard/{name}")
async def asset(request: Request, name: str, doors: Doors = WithDoors) -> Response:
    return await _answer(request, doors, name)


async def _answer(request: Request, doors: Doors, name: str) -> Response:
    if doors.dashboard is None:
        raise not_loaded("dashboard", "--dashboard")
    content, digest = await doors.dashboard.file.remote(name)
    # Asked for every time, sent once: a site that was made again is seen at once.
    headers: dict[str, Any] = {"ETag": f'"{digest}"', "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    kind = _TYPES.get((name or "index.html").rsplit(".", 1)[-1], "application/octet-stream")
    return Response(content, media_type=kind, headers=headers)
