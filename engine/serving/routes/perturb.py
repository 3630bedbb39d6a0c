"""What a perturbation would do: /v1/perturb."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from engine.serving.doors import CellChoice, Doors
from engine.serving.problems import Problem, documented, not_loaded
from engine.serving.routes.asking import WithDoors, needs

router = APIRouter(tags=["perturbations"], dependencies=[needs("read")], responses=documented(404, 501))


class PerturbRequest(BaseModel):
    """perturbation: a gene, or several joined by `+`. cells: their mean is the state before it."""

    model_config = ConfigDict(extra="forbid")

    perturbation: str = Field(min_length=1, max_length=400)
    cells: CellChoice
    context: str | None = Field(default=None, max_length=400)
    most: int = Field(default=25, ge=1, le=500)


class GroupsRequest(BaseModel):
    """What a perturbation would do to the mean cell of each category of an annotation. gene: to this gene;
    None: to all of them, as the root of the mean square.
    """

    model_config = ConfigDict(extra="forbid")

    perturbation: str = Field(min_length=1, max_length=400)
    column: str = Field(min_length=1, max_length=400)
    gene: str | None = Field(default=None, max_length=64)
    context: str | None = Field(default=None, max_length=400)


@router.post("/v1/perturb/groups")
async def groups(asked: GroupsRequest, doors: Doors = WithDoors) -> dict[str, Any]:
    """The predicted change of each category, by its number in the column: what colours a map by it."""
    if doors.perturbations is None:
        raise not_loaded("model of perturbations", "--perturbation")
    if doors.counts is None:
        raise not_loaded("cell store", "--cells")
    column, ids = await doors.cells.column.remote(asked.column), await doors.cells.ids.remote(None)
    if column.kind != "category":
        raise Problem(400, "no_categories", f"column {asked.column!r} has no categories")
    genes, code_N = await doors.perturbations.genes.remote(), np.frombuffer(column.levels, np.uint8)
    found = []
    for number, name in enumerate(column.categories, 1):
        own = ids[code_N == number]
        if not len(own):
            continue
        before_G, _ = await doors.counts.profile.remote(own, genes)
        change, uncertainty = await doors.perturbations.change.remote(
            before_G, asked.perturbation, asked.context, asked.gene
        )
        found.append(
            {
                "category": number,
                "name": name,
                "n_cells": len(own),
                "change": change,
                "uncertainty": uncertainty,
            }
        )
    return {"column": asked.column, "gene": asked.gene, "groups": found}


@router.post("/v1/perturb")
async def perturb(asked: PerturbRequest, doors: Doors = WithDoors) -> dict[str, Any]:
    """Genes that would change most, each with its uncertainty and what the closed-form prior and baselines
    say of it. likeness: correlation of all changes with each baseline's; a prediction that is the mean of all
    trained perturbations again says nothing of this one.
    """
    if doors.perturbations is None:
        raise not_loaded("model of perturbations", "--perturbation")
    if doors.counts is None:
        raise not_loaded("cell store", "--cells")
    chosen = await doors.chosen(asked.cells)
    if not len(chosen):
        raise Problem(400, "empty_selection", "no cell is selected")
    genes = await doors.perturbations.genes.remote()
    before_G, missing = await doors.counts.profile.remote(chosen, genes)
    found: dict[str, Any] = await doors.perturbations.predict.remote(
        before_G, asked.perturbation, asked.context, asked.most
    )
    return {"n_cells": len(chosen), "genes_not_measured": missing, **found}
