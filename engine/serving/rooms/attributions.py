"""The cell side of the index's joint model: which genes the scores of cells for a text rest on.

Legend: C sampled cells, V token ids, U width of the common space.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine import models
from engine.models import joint
from engine.models.encoder import Encoder
from engine.models.joint import CellSide
from engine.models.tokens import Tokens
from engine.retrieval.texts import require_joint
from engine.serving.problems import Problem
from engine.serving.rooms.cells import sample_of
from engine.serving.rooms.counts import gene_names_of
from engine.serving.settings import Settings
from engine.streaming.inputs import Inputs
from storage.cells import CellRows
from storage.checkpoints import local_copy
from storage.errors import InputError
from storage.index import VectorIndex
from storage.shuffled_cells import read_cells

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Genes that are also deleted, and the cells encoded again: as many passes as there are cells with each.
DELETED = 5


@dataclass(frozen=True)
class _Tower:
    inputs: Inputs
    encoder: Encoder
    side: CellSide
    name_V: dict[int, str]


class AttributionRoom:
    """Loads the cell tower when it is first asked: most servers never are."""

    def __init__(self, settings: Settings) -> None:
        if settings.cells is None:
            raise ValueError("a room of attributions needs a cell store")
        self._settings, self._cells = settings, settings.cells
        self._loaded: _Tower | None = None

    def attribute(self, ids: Int64, question_U: Float32, most: int) -> dict[str, Any]:
        """Mean contributions of genes to the score of these cells, of a sample of them if they are many.

        cells: how many were looked at; fewer when there was no time. score, baseline: their mean, and that of
        the same cells without genes in particular. explained: the sum over all genes, which would be the
        difference of the two were the integral exact.
        deletion, of the first genes: what the mean score loses when the gene's counts are set to 0 and the
        cells encoded again; None where there was no time. Raises Problem when the model knows no gene of
        any of the cells.
        """
        limits, begun = self._settings.limits, time.monotonic()
        tower = self._tower()
        question = torch.from_numpy(np.array(question_U, np.float32)).to(tower.encoder.device)
        ids = sample_of(ids, limits.attributed_cells)
        if int(ids[-1]) >= tower.inputs.store.n_cells:
            raise Problem(400, "no_counts", f"cell {int(ids[-1])} was added to the index later")
        sum_V, cells_V = np.zeros((2, len(tower.encoder.tokeniser.gene_ids)))
        looked_at: list[int] = []
        ends: list[tuple[float, float]] = []
        for cell in ids.tolist():
            if looked_at and time.monotonic() - begun > limits.answer_seconds / 2:
                break
            tokens = _tokens(tower, read_cells(tower.inputs.store, np.array([cell])), np.array([cell]))
            if not (tower.encoder.tokeniser.token_classes[tokens.ids_T] == 0).any():
                continue
            found = joint.attribute_text(tower.encoder, tower.side, tokens, question)
            np.add.at(sum_V, tokens.ids_T, found.contribution_T)
            cells_V[np.unique(tokens.ids_T)] += 1
            ends.append((found.score, found.baseline))
            looked_at.append(cell)
        if not looked_at:
            raise Problem(400, "no_genes", "none of these cells has a gene that the joint model knows")
        score, baseline = np.mean(ends, axis=0).tolist()
        order = np.argsort(-sum_V, kind="stable")[:most]
        best = [int(token) for token in order if sum_V[token] > 0 and int(token) in tower.name_V]
        deletions = self._deletions(tower, np.array(looked_at), best[:DELETED], question, score, begun)
        return {
            "cells": len(looked_at),
            "score": score,
            "baseline": baseline,
            "explained": float(sum_V.sum()) / len(looked_at),
            "genes": [
                {
                    "gene": tower.name_V[token],
                    "contribution": sum_V[token] / len(looked_at),
                    "cells": int(cells_V[token]),
                    "deletion": deletions.get(token),
                }
                for token in best
            ],
        }

    def _deletions(
        self, tower: _Tower, ids: Int64, tokens: list[int], question: torch.Tensor, score: float, begun: float
    ) -> dict[int, float]:
        found: dict[int, float] = {}
        rows = read_cells(tower.inputs.store, ids)
        token_N = tower.inputs.match.column_to_token[rows.indices]
        for token in tokens:
            if time.monotonic() - begun > self._settings.limits.answer_seconds * 0.9:
                break
            left = _tokens(tower, _without(rows, token_N == token), ids)
            parts = [tower.side.embed(tower.encoder, left.select([row])) for row in range(left.n_cells)]
            scores_C = (torch.cat(parts) @ question).cpu().numpy()
            # A cell of that gene alone has no embedding any more, and no score.
            found[token] = score - float(np.nan_to_num(scores_C).mean())
        return found

    def _tower(self) -> _Tower:
        """Raises InputError when the joint model is not the one that embedded the index's cells."""
        if self._loaded is None:
            index = VectorIndex.open(self._settings.index, self._settings.index_version)
            known = require_joint(index)
            path = self._settings.joint or known["path"]
            inputs = Inputs.open(self._cells, path)
            if inputs.model.fingerprint != known["model"]:
                where = index.snapshot.location
                raise InputError(f"--joint {path}: is not the joint model that embedded the cells of {where}")
            device = "cuda" if torch.cuda.is_available() else "cpu"
            encoder = models.load(local_copy(path)).to(device).eval().requires_grad_(False)
            side = joint.load_cell_side(local_copy(path)).to(device).requires_grad_(False)
            names, tokens = gene_names_of(inputs.store.genes), inputs.match.column_to_token
            known_columns = np.flatnonzero(tokens >= 0)[::-1]
            name_V = {int(tokens[column]): str(names[column]) for column in known_columns}
            self._loaded = _Tower(inputs, encoder, side, name_V)
        return self._loaded


def _tokens(tower: _Tower, rows: CellRows, ids: Int64) -> Tokens:
    """As the stream that embedded the index makes them, at the model's own limit."""
    limit, match = tower.inputs.model.token_limit(None), tower.inputs.match
    indices = rows.indices.astype(np.int32)
    return tower.encoder.tokeniser.tokenise(
        rows.indptr, indices, rows.counts, match, max_tokens=limit, cells=ids
    )


def _without(rows: CellRows, gone_N: npt.NDArray[np.bool_]) -> CellRows:
    """The rows less some of their entries."""
    kept = np.concatenate([[0], np.cumsum(~gone_N)])
    return CellRows(kept[rows.indptr], rows.indices[~gone_N], rows.counts[~gone_N], rows.n_genes)
