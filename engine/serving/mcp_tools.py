"""The server's questions as tools of the Model Context Protocol: read-only, with the same keys and bounds.

Extra `mcp`. A client connects to `/mcp/` over HTTP; nothing is kept between its calls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.models.errors import ModelError
from engine.serving.access import Access
from engine.serving.chat.evidence import gather
from engine.serving.doors import CellChoice, Doors
from engine.serving.problems import Problem, not_loaded
from storage.errors import InputError

INSTALL = 'pip install "syncytium[mcp]"'
INSTRUCTIONS = (
    "Questions about one dataset of single cells. Conditions look like: tissue = 'lung' and n_genes > 500. "
    "Numbers are statistics of cells, not statements about a person."
)
_QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)


def mcp_server(doors: Doors) -> Any:
    """An `MCPServer` with the tools. Raises InputError when the package is missing."""
    try:
        from mcp.server import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError as error:
        raise InputError(f"--mcp needs a package that is missing; get it with: {INSTALL}") from error
    server = MCPServer("syncytium", instructions=INSTRUCTIONS)

    def tool(answer: Callable[..., Any]) -> None:
        """What is refused is said to the client; the package hides errors that it does not know."""

        @wraps(answer)
        async def told(*given: Any, **named: Any) -> Any:
            try:
                return await answer(*given, **named)
            except (Problem, InputError, ModelError) as error:
                raise ToolError(str(error)) from error

        server.tool()(told)

    async def cells(where: str) -> Any:
        return await doors.chosen(CellChoice(where=where))

    @tool
    async def search_cells(text: str, where: str | None = None, k: int = 10) -> dict[str, Any]:
        """Cells most like a text, such as: B cell -activated. k: at most 100."""
        question = await doors.question(text)
        bounded = min(max(k, 1), doors.settings.limits.hits)
        found: dict[str, Any] = await doors.cells.search.remote(
            question.vector, bounded, where, "cosine", "auto", None
        )
        return found

    @tool
    async def score_text(text: str, where: str | None = None) -> dict[str, Any]:
        """How the cells (that pass a condition) score for a text: quantiles of the cosine."""
        question = await doors.question(text)
        chosen = await cells(where) if where else await doors.cells.ids.remote(None)
        if not len(chosen):
            raise Problem(400, "empty_selection", "no cell passes the condition")
        scores = await doors.scores_of(chosen, question)
        values = np.quantile(scores, _QUANTILES)
        quantiles = {f"q{share}": float(value) for share, value in zip(_QUANTILES, values, strict=True)}
        return {"n_cells": len(scores), **quantiles}

    @tool
    async def describe_selection(where: str) -> dict[str, Any]:
        """Evidence on the cells that pass a condition: genes, annotations, phrases, mixture, features."""
        ids = await cells(where)
        if not len(ids):
            raise Problem(400, "no_evidence", "no cell passes the condition")
        pieces = await gather(doors, ids, "these cells", 1)
        return {"n_cells": len(ids), "evidence": [{"id": p.id, "summary": p.summary} for p in pieces]}

    @tool
    async def top_genes(where: str, most: int = 20) -> dict[str, Any]:
        """Genes that the cells passing a condition express more than all others, with effect sizes."""
        if doors.counts is None:
            raise not_loaded("cell store", "--cells")
        ids = await cells(where)
        found: dict[str, Any] = await doors.counts.markers.remote(
            ids, await doors.rest(ids), min(max(most, 1), 200)
        )
        return found

    @tool
    async def feature(number: int) -> dict[str, Any]:
        """What one feature of the sparse autoencoder responds to."""
        if doors.features is None:
            raise not_loaded("feature tables", "--features")
        found: dict[str, Any] = await doors.features.feature.remote(number)
        return found

    @tool
    async def predict_perturbation(perturbation: str, where: str) -> dict[str, Any]:
        """What knocking genes out (joined by +) would change in the cells that pass a condition."""
        if doors.perturbations is None or doors.counts is None:
            raise not_loaded("model of perturbations", "--perturbation and --cells")
        before_G, _ = await doors.counts.profile.remote(
            await cells(where), await doors.perturbations.genes.remote()
        )
        found: dict[str, Any] = await doors.perturbations.predict.remote(before_G, perturbation, None, 25)
        return found

    return server


class Guarded:
    """ASGI application behind the same keys and rates as the routes."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._access.admit(Request(scope), "read")
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)
