"""Features of an autoencoder: /v1/features."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from engine.serving.doors import CellChoice, Doors
from engine.serving.problems import not_loaded
from engine.serving.routes.asking import WithDoors, needs

router = APIRouter(tags=["features"], dependencies=[needs("read")])


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


@router.post("/v1/features/of-cells")
async def of_cells(asked: OfCells, doors: Doors = WithDoors) -> dict[str, Any]:
    """Features whose strongest cells are among these."""
    room = _room(doors)
    return {"features": await room.of_cells.remote(await doors.chosen(asked.cells), asked.most)}


def _room(doors: Doors) -> Any:
    if doors.features is None:
        raise not_loaded("feature tables", "--features")
    return doors.features
