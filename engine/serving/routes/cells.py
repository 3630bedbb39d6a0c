"""The cells themselves: /v1/datasets, maps, annotations, genes, selections and what sets them apart."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from engine.serving.doors import ROOMS, CellChoice, Doors, ranges_of
from engine.serving.exports import chunks, csv_lines, h5ad_of, score_columns
from engine.serving.problems import Problem, documented, not_loaded
from engine.serving.rooms.cell_view import Scores
from engine.serving.routes.asking import OCTETS, WithDoors, answers, needs
from engine.serving.routes.retrieval import levels_response
from engine.serving.streams import Stream

router = APIRouter(tags=["cells"], dependencies=[needs("read")], responses=documented(404, 501))

# Positions and annotations of one version never change.
_KEEP = {"Cache-Control": "private, max-age=3600"}


ScoreText = Annotated[str, Field(min_length=1, max_length=4_000)]


class MarkersRequest(BaseModel):
    """What `cells` express more than `against`, or than all other cells."""

    model_config = ConfigDict(extra="forbid")

    cells: CellChoice
    against: CellChoice | None = None
    most: int = Field(25, ge=1, le=200)


@router.get("/v1/datasets")
async def datasets(doors: Doors = WithDoors) -> dict[str, Any]:
    """What is served, with versions and fingerprints: where every number on a page comes from."""
    facts = {"cells": await doors.cells.facts.remote()}
    for name in ROOMS[1:]:
        room = getattr(doors, name)
        facts[name] = None if room is None else await room.facts.remote()
    return facts


@router.get("/v1/cells/layout", response_class=Response, responses=answers(OCTETS))
async def layout(name: str | None = Query(None, max_length=200), doors: Doors = WithDoors) -> Response:
    """x and y of every cell by ascending id, little-endian uint16 each, interleaved. name: of the layouts
    that /v1/datasets lists, the first unless one is named.
    """
    points = await doors.cells.layout.remote(name)
    return Response(points, media_type="application/octet-stream", headers=_KEEP)


@router.get("/v1/cells/ids")
async def ids(where: str | None = Query(None, max_length=4_000), doors: Doors = WithDoors) -> dict[str, Any]:
    """Ids of the cells that pass, ascending, as half-open ranges."""
    found = await doors.cells.ids.remote(where)
    return {"n_cells": len(found), "ranges": ranges_of(found)}


@router.get("/v1/cells/columns/{name}", response_class=Response, responses=answers(OCTETS))
async def column(name: str, doors: Doors = WithDoors) -> Response:
    """An annotation, a byte a cell by ascending id: the number of a category (0: missing), or levels."""
    found = await doors.cells.column.remote(name)
    if found.kind == "number":
        return levels_response(Scores(found.levels, found.low, found.high))
    return Response(found.levels, media_type="application/octet-stream", headers=_KEEP)


@router.get("/v1/cells/columns/{name}/categories")
async def categories(name: str, doors: Doors = WithDoors) -> dict[str, Any]:
    """Names of the categories, number 1 first; none for a column of numbers."""
    found = await doors.cells.column.remote(name)
    return {"kind": found.kind, "categories": found.categories}


@router.post("/v1/cells/names")
async def names(asked: CellChoice, doors: Doors = WithDoors) -> dict[str, Any]:
    """Names and annotations of at most a thousand cells."""
    chosen = await doors.chosen(asked)
    return {"n_cells": len(chosen), "cells": await doors.cells.names.remote(chosen[:1_000])}


@router.post("/v1/selections", status_code=201)
async def select(asked: CellChoice, doors: Doors = WithDoors) -> dict[str, Any]:
    """Keep a selection; its id stands for it afterwards. The same cells get the same id."""
    chosen = await doors.chosen(asked)
    if not len(chosen):
        raise Problem(400, "empty_selection", "no cell is selected")
    return {"id": await doors.selections.keep.remote(chosen), "n_cells": len(chosen)}


@router.get("/v1/selections/{name}")
async def selection(name: str, doors: Doors = WithDoors) -> dict[str, Any]:
    """The cells of a selection and what annotations they have."""
    chosen = await doors.selection(name)
    composition = await doors.cells.composition.remote(chosen)
    return {"id": name, "n_cells": len(chosen), "ranges": ranges_of(chosen), "composition": composition}


@router.get(
    "/v1/selections/{name}/export",
    response_class=Response,
    responses=answers("text/csv", "application/x-hdf5"),
)
async def export(
    request: Request,
    name: str,
    format: Literal["csv", "h5ad"] = "csv",
    text: Annotated[list[ScoreText] | None, Query(max_length=8)] = None,
    doors: Doors = WithDoors,
) -> Response:
    """The cells of a selection as a file: annotations, and a column with their score for each text; an h5ad
    also has their counts (`X`), their vectors (`X_embedding`) and their places on the map (`X_map`).
    """
    texts, ids = list(dict.fromkeys(text or [])), await doors.selection(name)
    scores = score_columns(texts, [await doors.scores_of(ids, await doors.question(t)) for t in texts])
    headers = {"Content-Disposition": f'attachment; filename="{name}.{format}"'}
    if format == "csv":
        return Stream(csv_lines(doors, ids, scores), "text/csv", headers=headers)
    # One at a time: each holds the counts of its cells while it is made.
    async with request.app.state.exporting:
        file = await h5ad_of(doors, name, ids, scores)
    return Stream(chunks(file), "application/x-hdf5", headers=headers)


@router.get("/v1/genes")
async def genes(
    prefix: str = Query("", max_length=64), most: int = Query(20, ge=1, le=100), doors: Doors = WithDoors
) -> dict[str, Any]:
    """Names of genes that begin so."""
    return {"genes": await _counts(doors).gene_names.remote(prefix, most)}


@router.get("/v1/genes/{name}/expression", response_class=Response, responses=answers(OCTETS))
async def expression(name: str, doors: Doors = WithDoors) -> Response:
    """log(1 + counts per ten thousand) of one gene, a byte a cell by ascending id."""
    room = _counts(doors)
    return levels_response(await room.gene.remote(name, await doors.cells.ids.remote(None)))


@router.post("/v1/markers")
async def markers(asked: MarkersRequest, doors: Doors = WithDoors) -> dict[str, Any]:
    """Genes that set some cells apart, with effect sizes; of at most 2,000 cells of each side."""
    room, chosen = _counts(doors), await doors.chosen(asked.cells)
    others = await doors.rest(chosen) if asked.against is None else await doors.chosen(asked.against)
    if not len(chosen) or not len(others):
        raise Problem(400, "empty_selection", "both sides of a comparison need cells")
    found: dict[str, Any] = await room.markers.remote(chosen, others, asked.most)
    return found


def _counts(doors: Doors) -> Any:
    if doors.counts is None:
        raise not_loaded("cell store", "--cells")
    return doors.counts
