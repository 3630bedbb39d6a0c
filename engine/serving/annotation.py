"""Naming cells on request: a label for each or none, and titles and captions with their evidence for groups.

What `annotate` writes for a whole store (`engine.retrieval.annotation`), for some cells of an index.
Legend: C cells, N groups of them, L labels, U width of the common space.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.retrieval.annotation.captions import as_json
from engine.retrieval.annotation.clusters import (
    ClusterField,
    EmbeddingSums,
    Evidence,
    TypicalCells,
    evidence_of_field,
)
from engine.retrieval.annotation.expression import ClusterSums
from engine.retrieval.annotation.vocabulary import Term
from engine.retrieval.annotation.zero_shot import Named, ZeroShot, asked_texts, directions_of
from engine.serving.doors import Doors, ranges_of
from engine.serving.problems import Problem, not_loaded

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

# Cells whose vectors are in memory at once; between two blocks other requests get their turn.
_BLOCK_CELLS = 8_192
_TERMS = 5
MOST_GROUPS = 100
# Groups of a request without a column: the cells themselves.
SELECTION = "selection"
_REST = "the other cells"


@dataclass(frozen=True)
class Labels:
    """What cells may be called: the phrase bank's `library`, or `terms` put into words by `templates`.
    min_confidence, min_cosine: as of `ZeroShot`.
    """

    terms: tuple[Term, ...] = ()
    library: str | None = None
    templates: tuple[str, ...] = ("celltype",)
    min_confidence: float = 0.5
    min_cosine: float = -1.0


async def annotate(
    doors: Doors, ids: Int64, labels: Labels, column: str | None, lists_cells: bool
) -> dict[str, Any]:
    """Names of cells, and of the groups that a categorical column makes of them (None: one group).

    Raises Problem for labels or a column that are not there, or too many of them.
    """
    zero_shot = await _directions(doors, labels)
    obs = await doors.cells.obs.remote(ids)
    field = _field(obs, column)
    sums = EmbeddingSums([field], zero_shot.directions_LU.shape[1], len(zero_shot.names))
    best_C, confidence_C, is_named_C = await _name_cells(doors, ids, zero_shot, sums)
    typical = TypicalCells(sums)
    async for start, e_CU in _blocks(doors, ids):
        await asyncio.to_thread(typical.add, start, e_CU)
    expression, genes = await _expression(doors, ids, field)
    evidence = await asyncio.to_thread(
        evidence_of_field, 0, sums, expression, typical, zero_shot, None, {}, obs, genes
    )
    # The last group is what the others are compared with.
    stated = await _with_terms(doors, typical.mean_NU[:-1], evidence[:-1])
    n_named = np.bincount(best_C[is_named_C], minlength=len(zero_shot.names))
    found: dict[str, Any] = {
        "n_cells": len(ids),
        "labels": list(zero_shot.names),
        "min_confidence": labels.min_confidence,
        "min_cosine": labels.min_cosine,
        "named": {name: int(n) for name, n in zip(zero_shot.names, n_named, strict=True)},
        "abstained": int((~is_named_C).sum()),
        "groups": [{"name": name, **as_json(each)} for name, each in zip(field.names, stated, strict=False)],
    }
    if lists_cells:
        found["cells"] = {
            "ranges": ranges_of(ids),
            "label": np.where(is_named_C, best_C, -1).tolist(),
            "best": best_C.tolist(),
            "confidence": [round(float(each), 4) for each in confidence_C],
        }
    return found


async def _directions(doors: Doors, labels: Labels) -> ZeroShot:
    if doors.texts is None:
        raise not_loaded("joint model, so it knows no labels", "--joint, on an index made with one")
    most = doors.settings.limits.labels
    if labels.library is not None:
        if doors.phrases is None:
            raise not_loaded("phrase bank", "--phrases")
        names, direction_LU = await doors.phrases.library.remote(labels.library, most)
    else:
        names, n_texts = [term.name for term in labels.terms], sum(len(term.texts) for term in labels.terms)
        if n_texts * len(labels.templates) > most:
            detail = f"{n_texts:,} texts in {len(labels.templates)} templates; at most {most:,} together"
            raise Problem(400, "too_many_labels", detail)
        texts = asked_texts(labels.terms, labels.templates)
        direction_LU = directions_of(labels.terms, await doors.texts.vectors.remote(texts))
    temperature = (await doors.texts.facts.remote())["temperature"]
    return ZeroShot(tuple(names), direction_LU, 1 / temperature, labels.min_confidence, labels.min_cosine)


def _field(obs: pd.DataFrame, column: str | None) -> ClusterField:
    """The groups of the cells, and one more without cells of its own."""
    if column is None:
        return ClusterField(SELECTION, ("these cells", _REST), np.zeros(len(obs), np.int32))
    if column not in obs or not isinstance(obs[column].dtype, pd.CategoricalDtype):
        named = [str(name) for name in obs if isinstance(obs[name].dtype, pd.CategoricalDtype)]
        raise Problem(404, "no_column", f"no categories {column!r}; there are {', '.join(named)}")
    found = ClusterField.of_column(column, obs[column].cat.remove_unused_categories())
    if len(found.names) > MOST_GROUPS:
        detail = f"{len(found.names):,} values of {column!r} among these cells; at most {MOST_GROUPS}"
        raise Problem(400, "too_many_groups", detail)
    return replace(found, names=(*found.names, _REST))


async def _name_cells(
    doors: Doors, ids: Int64, zero_shot: ZeroShot, sums: EmbeddingSums
) -> tuple[npt.NDArray[np.int32], Float32, npt.NDArray[np.bool_]]:
    """best_C, confidence_C, is_named_C; and the sums are added up."""

    def named(start: int, e_CU: Float32) -> Named:
        found = zero_shot.name(e_CU)
        sums.add(start, e_CU, found)
        return found

    parts = [await asyncio.to_thread(named, start, e_CU) async for start, e_CU in _blocks(doors, ids)]
    return (
        np.concatenate([part.best_C for part in parts]),
        np.concatenate([part.confidence_C for part in parts]),
        np.concatenate([part.is_named_C for part in parts]),
    )


async def _blocks(doors: Doors, ids: Int64) -> AsyncIterator[tuple[int, Float32]]:
    for start in range(0, len(ids), _BLOCK_CELLS):
        yield start, await doors.cells.vectors.remote(ids[start : start + _BLOCK_CELLS])


async def _expression(doors: Doors, ids: Int64, field: ClusterField) -> tuple[ClusterSums, list[str]]:
    """Of the groups and of the cells that were not asked about; nothing where no counts are loaded."""
    if doors.counts is None:
        return ClusterSums.zeros(len(field.names), 0), []
    groups = [ids[field.number_C == number] for number in range(len(field.names) - 1)]
    sums = await doors.counts.cluster_sums.remote([*groups, await doors.rest(ids)])
    return sums, await doors.counts.gene_columns.remote()


async def _with_terms(doors: Doors, mean_NU: Float32, evidence: Sequence[Evidence]) -> list[Evidence]:
    if doors.phrases is None:
        return list(evidence)
    ranked = await doors.phrases.keywords.remote(mean_NU, _TERMS)
    return [
        replace(each, terms=[(library, [(n, round(z, 2)) for n, z in terms]) for library, terms in own])
        for each, own in zip(evidence, ranked, strict=True)
    ]


def labels_of(given: Mapping[str, Sequence[str]] | Sequence[str]) -> tuple[Term, ...]:
    """Labels as names, or name -> ways to say it."""
    if isinstance(given, Mapping):
        return tuple(Term(name, tuple(texts) or (name,)) for name, texts in given.items())
    return tuple(Term(name, (name,)) for name in given)
