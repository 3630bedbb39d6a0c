"""Which tokens are looked at: those of whole cells, drawn by a hash of the cell and nothing else.

A cell is in the sample or not whatever cache member it lies in and whoever reads it, so the same budget gives
the same tokens on a laptop and on a cluster. Cells stay whole because the strongest activation of a feature
in a cell is a maximum over all its genes.

Shape legend: T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.interpret.evaluation.inputs import CLASSES, EvaluationInputs
from engine.interpret.features import Integers
from engine.interpret.runs import Int64
from engine.models.sae.gene_means import without_gene_means
from engine.streaming.draws import token_draws

EVALUATED, CALIBRATION, PROBED = 3, 4, 5
"""Streams of `token_draws` that nobody else uses."""
CALIBRATION_MEMBERS = 8
CALIBRATION_TOKENS = 131_072
"""A mean and principal directions to two digits, and enough cells for the range of a feature's maxima."""


def drawn(seed: int, stream: int, cells: Integers, share: float) -> np.ndarray:
    """Which of these cells a sample of `share` of all cells holds, bool."""
    if share >= 1:
        return np.ones(len(cells), np.bool_)
    draws = token_draws(seed, np.asarray(cells), np.zeros(len(cells), np.int64), stream=stream)
    return draws < np.uint64(share * (2.0**64 - 2048))


@dataclass(frozen=True)
class WholeCells:
    """Tokens of whole cells, ordered by cell, then place. Activations x_TD as the autoencoder takes them, on
    the host."""

    x_TD: torch.Tensor
    cell_T: Int64
    gene_T: Int64
    kind_T: Int64
    """A number of `inputs.CLASSES`."""

    def __len__(self) -> int:
        return len(self.cell_T)

    def at(self, rows: slice | Int64) -> WholeCells:
        at = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        return WholeCells(self.x_TD[at], self.cell_T[rows], self.gene_T[rows], self.kind_T[rows])

    def of_kind(self, kind: int) -> WholeCells:
        """The tokens of one kind alone."""
        return self.at(np.flatnonzero(self.kind_T == kind))


def read_cells(inputs: EvaluationInputs, member: int, seed: int, stream: int, share: float) -> WholeCells:
    """The drawn cells of one member of the cache."""
    tokens = inputs.cache.read(inputs.hook, inputs.cache.members[member].key)
    cells, place_T = np.unique(tokens.cell, return_inverse=True)
    wanted = (cells < inputs.n_cells) & drawn(seed, stream, cells, share)
    kept = np.flatnonzero(wanted[place_T])
    order = kept[np.lexsort((tokens.pos[kept], tokens.cell[kept]))]
    gene_T = tokens.gene[order].astype(np.int64)
    return WholeCells(
        prepared(inputs, tokens.acts[torch.from_numpy(order)], gene_T),
        tokens.cell[order].astype(np.int64),
        gene_T,
        np.minimum(tokens.token_class[order].astype(np.int64), len(CLASSES) - 1),
    )


def prepared(inputs: EvaluationInputs, x_TD: torch.Tensor, gene_T: Int64) -> torch.Tensor:
    """Activations of the cache as the autoencoder takes them: less the means of their genes if it says so."""
    if inputs.gene_means is None:
        return x_TD
    return without_gene_means(x_TD.float(), torch.from_numpy(gene_T), inputs.gene_means)


def members_with_cells(inputs: EvaluationInputs) -> list[int]:
    """Numbers of the cache members that hold wanted cells, in order."""
    starts = [int(record.facts["start"]) for record in inputs.cache.members]
    return [number for number, start in enumerate(starts) if start < inputs.n_cells]


def tokens_in(inputs: EvaluationInputs, members: Sequence[int]) -> int:
    return sum(int(inputs.cache.members[number].facts["n_tokens"]) for number in members)


def calibration_cells(inputs: EvaluationInputs, seed: int) -> WholeCells:
    """Some cells from all over the cache, their tokens of `inputs.kind`: what means, principal directions and
    ranges are taken from."""
    members = members_with_cells(inputs)
    places = np.unique(np.linspace(0, len(members) - 1, CALIBRATION_MEMBERS).round().astype(np.int64))
    chosen = [members[place] for place in places]
    share = CALIBRATION_TOKENS / max(tokens_in(inputs, chosen), 1)
    parts = [read_cells(inputs, number, seed, CALIBRATION, share).of_kind(inputs.kind) for number in chosen]
    return WholeCells(
        torch.cat([part.x_TD for part in parts]).float(),
        np.concatenate([part.cell_T for part in parts]),
        np.concatenate([part.gene_T for part in parts]),
        np.concatenate([part.kind_T for part in parts]),
    )
