"""What a perturbation would do: /v1/perturb."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from engine.serving.doors import CellChoice, Doors
from engine.serving.problems import Problem, not_loaded
from engine.serving.routes.asking import WithDoors, needs

router = APIRouter(tags=["perturbations"], dependencies=[needs("read")])


class PerturbRequest(BaseModel):
    """perturbation: a gene, or several joined by `+`. cells: their mean is the state before it."""

    model_config = ConfigDict(extra="forbid")

    perturbation: str = Field(min_length=1, max_length=400)
    cells: CellChoice
    context: str | None = Field(default=None, max_length=400)
    most: int = Field(default=25, ge=1, le=500)


@router.post("/v1/perturb")
async def perturb(asked: PerturbRequest, doors: Doors = WithDoors) -> dict[str, Any]:
    """Genes that would change most, each with its uncertainty, the closed-form prior's answer and the mean
    effect of all trained perturbations: a prediction no better than that mean says nothing of this one.
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
