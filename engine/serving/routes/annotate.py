"""What cells may be called: /v1/annotate."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.serving.annotation import Labels, annotate, labels_of
from engine.serving.doors import CellChoice, Doors
from engine.serving.problems import Problem, documented
from engine.serving.routes.asking import WithDoors, needs

router = APIRouter(tags=["annotation"], dependencies=[needs("read")], responses=documented(404, 501))

Words = Annotated[str, Field(min_length=1, max_length=400)]


class AnnotateRequest(BaseModel):
    """labels: names, or name -> ways to say it, whose vectors are averaged; or `library`, a library of the
    phrase bank. group_by: an annotation whose groups get titles and captions; none: all cells are one group.
    """

    model_config = ConfigDict(extra="forbid")

    cells: CellChoice
    labels: list[Words] | dict[Words, list[Words]] | None = None
    library: Words | None = None
    templates: list[Words] = Field(["celltype"], min_length=1, max_length=8)
    min_confidence: float = Field(0.5, ge=0, le=1)
    min_cosine: float = Field(-1.0, ge=-1, le=1)
    group_by: Words | None = None
    list_cells: bool = True

    @model_validator(mode="after")
    def _says_which_labels(self) -> AnnotateRequest:
        if (self.labels is None) == (self.library is None):
            raise ValueError("give labels or library: one of them says what cells may be called")
        if self.labels is not None and len(set(self.labels)) < max(2, len(self.labels)):
            raise ValueError("labels: at least two are needed, each once")
        return self


@router.post("/v1/annotate")
async def annotate_cells(asked: AnnotateRequest, doors: Doors = WithDoors) -> Response:
    """A label for each cell with its probability among the labels, or none (-1) where that is too little;
    for groups a title and a caption, with the genes, terms, annotations and typical cells they rest on.

    `cells.label` and `cells.best` are positions in `labels`, by ascending id of the cells.
    """
    ids, most = await doors.chosen(asked.cells), doors.settings.limits.annotated_cells
    if not len(ids):
        raise Problem(400, "empty_selection", "no cell is selected")
    if len(ids) > most:
        detail = f"{len(ids):,} cells; at most {most:,} are named at once. The job annotate names any number"
        raise Problem(413, "too_many_cells", detail)
    labels = Labels(
        () if asked.labels is None else labels_of(asked.labels),
        asked.library,
        tuple(asked.templates),
        asked.min_confidence,
        asked.min_cosine,
    )
    found = await annotate(doors, ids, labels, asked.group_by, asked.list_cells)
    return await asyncio.to_thread(JSONResponse, found)
