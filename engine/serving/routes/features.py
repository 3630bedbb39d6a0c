"""Features of an autoencoder: /v1/features."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from engine.serving.doors import CellChoice, Doors
from engine.serving.problems import documented, not_loaded
from engine.serving.routes.asking import OCTETS, WithDoors, answers, needs
from engine.serving.routes.retrieval import levels_response

router = APIRouter(tags=["features"], dependencies=[needs("read")], responses=documented(404, 501))


class OfCells(BaseModel):
    model_config = ConfigDict(extra="forbid")

    cells: CellChoice
    most: int = Field(20, ge=1, le=200)


@router.get("/v1/features")
async def features(
    gene: str | None = Query(None, max_length=64),
    sort: str = Query("density", max_length=64),
    start: int = Query(0, ge=0, le=2**40),
    most: int = Query(50, ge=1, le=500),
    doors: Doors = WithDoors,
) -> dict[str, Any]:
    """A page of features, largest first by a column; with a gene, those with it among their top genes."""
    found: dict[str, Any] = await _room(doors).page.remote(gene, sort, start, most)
    return found


@router.get("/v1/features/{number}")
async def feature(number: int = Path(ge=0, le=2**40), doors: Doors = WithDoors) -> dict[str, Any]:
    """All that the tables say of one feature."""
    found: dict[str, Any] = await _room(doors).feature.remote(number)
    return found


@router.get("/v1/features/{number}/cells")
async def strongest(number: int = Path(ge=0, le=2**40), doors: Doors = WithDoors) -> dict[str, Any]:
    """Its strongest cells: `[cell, largest activation]`, strongest first."""
    return {"feature": number, "cells": await _room(doors).top_cells.remote(number)}


@router.get("/v1/features/{number}/levels", response_class=Response, responses=answers(OCTETS))
async def levels(number: int = Path(ge=0, le=2**40), doors: Doors = WithDoors) -> Response:
    """Its largest activation in every cell, a byte a cell by ascending id: 1 is X-Score-Low, 255 is
    X-Score-High, 0 not known. X-Cells-Listed of the X-Cells-Fired cells in which it fires are known.
    """
    found, n_listed, n_fired = await _room(doors).levels.remote(number, await doors.cells.ids.remote(None))
    response = levels_response(found)
    response.headers["X-Cells-Listed"], response.headers["X-Cells-Fired"] = str(n_listed), str(n_fired)
    return response


@router.post("/v1/features/of-cells")
async def of_cells(asked: OfCells, doors: Doors = WithDoors) -> dict[str, Any]:
    """Features whose strongest cells are among these."""
    room = _room(doors)
    return {"features": await room.of_cells.remote(await doors.chosen(asked.cells), asked.most)}


def _room(doors: Doors) -> Any:
    if doors.features is None:
        raise not_loaded("feature tables", "--features")
    return doors.features
