"""The whole API as one FastAPI application over the doors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.serving import problems
from engine.serving.access import Access, Headers, read_keys
from engine.serving.bounds import Bounded
from engine.serving.doors import Doors
from engine.serving.mcp_tools import Guarded, mcp_server
from engine.serving.routes import (
    annotate,
    cells,
    cellwhisperer,
    chat,
    dashboard,
    features,
    health,
    perturb,
    retrieval,
)

WEB = Path(__file__).parent / "web"

REQUESTS = Counter("syncytium_requests", "Requests answered", ["route", "status"])
SECONDS = Histogram(
    "syncytium_request_seconds",
    "Seconds to the first byte of an answer",
    ["route"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)


def create_api(doors: Doors) -> FastAPI:
    """Everything behind one port: API, documents, page. Raises InputError for a bad key file."""
    settings = doors.settings
    tools = mcp_server(doors) if settings.mcp else None
    # The framework's own document pages fetch scripts from elsewhere.
    api = FastAPI(
        title="Syncytium", version="1", docs_url=None, redoc_url=None, lifespan=partial(_running, tools)
    )
    api.state.doors = doors
    api.state.exporting = asyncio.Semaphore(1)
    keys = None if settings.api_keys is None else read_keys(settings.api_keys)
    api.state.access = Access(keys, settings.limits.requests_per_minute)
    problems.install(api)
    for module in (retrieval, cells, annotate, features, dashboard, perturb, chat, cellwhisperer, health):
        api.include_router(module.router)
    if tools is not None:
        _mount(api, tools)
    _serve_page(api)
    api.add_middleware(Bounded, limits=settings.limits)
    if settings.allow_origins:
        api.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allow_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["X-Score-Low", "X-Score-High"],
        )
    api.add_middleware(Headers)
    api.add_middleware(Counted)
    return api


def _mount(api: FastAPI, tools: Any) -> None:
    from mcp.server.transport_security import TransportSecuritySettings

    # With keys a proxy may stand before the server under any name; without, only loopback's names are taken.
    has_keys = api.state.doors.settings.api_keys is not None
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False) if has_keys else None
    app = tools.streamable_http_app(
        streamable_http_path="/", stateless_http=True, json_response=True, transport_security=security
    )
    api.mount("/mcp", Guarded(app, api.state.access))


@asynccontextmanager
async def _running(tools: Any, _: FastAPI) -> AsyncIterator[None]:
    """Tools need their sessions for as long as the application lives."""
    async with nullcontext() if tools is None else tools.session_manager.run():
        yield


class Counted:
    """ASGI middleware: every answer and its seconds, under the template of its route. (Not the path: names of
    columns must not become names of metrics.)
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "unknown")
                REQUESTS.labels(route, str(message["status"])).inc()
                SECONDS.labels(route).observe(time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)


def _serve_page(api: FastAPI) -> None:
    @api.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html")

    @api.get("/docs", include_in_schema=False)
    async def documents() -> FileResponse:
        return FileResponse(WEB / "docs.html")

    api.mount("/web", StaticFiles(directory=WEB), name="web")
