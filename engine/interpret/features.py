"""What each feature of a sparse autoencoder fires on: one streaming pass over an activation cache.

The pass looks at one cache member at a time (`observe`) and returns a small state; states merge exactly, in
any order and any grouping (`merge`), so members can be spread over any number of workers. Sums of activations
are kept as integers in units of a resolution fixed before the pass: integer addition is associative, float
addition is not. Tokens that are not genes (<cls>, <pad>, masks) are left out by their class, never by the
sign or size of their id.

Shape legend: T tokens, D width of the encoder, F features, G token ids of the vocabulary, L labels, C cells
of a chunk, N activations above zero, S distinct (feature, cell) pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from engine.interpret.runs import (
    MANTISSA_BITS,
    Float32,
    Int64,
    LevelRun,
    PairRun,
    RankedCells,
    activation_level,
    empty_levels,
    empty_pairs,
    empty_ranked,
    level_count,
    merge_levels,
    merge_pairs,
    merge_ranked,
    segments,
)

Integers = npt.NDArray[np.integer[Any]]

NO_LABEL = -1
CHUNK_TOKENS = 8192
"""Tokens looked at together; a chunk holds whole cells, so a single longer cell makes a longer chunk."""
DENSE_BYTES = 64 << 20
"""Size of the only array of the pass that is tokens x features."""
EXACT_UP_TO = 1 << 26
"""Cells x features up to which every activation keeps its own level: at most 1 GB of occupied keys."""
COARSE_BITS = 4
COMPACT_AT = 4 << 20
"""Keys collected before runs are merged: rarer merges sort less in total, 4 Mi pairs take 112 MB."""
SAMPLE_TOKENS = 1024


class FeatureEncoder(Protocol):
    """The part of a sparse autoencoder the pass needs."""

    def encode(self, x_TD: torch.Tensor, /) -> torch.Tensor: ...


@dataclass(frozen=True)
class PassPlan:
    """What all members of one pass share; states merge only under the same plan."""

    n_features: int
    n_genes: int
    """Size of the vocabulary; the token ids of the cache are below it."""
    n_labels: int = 0
    top_cells: int = 100
    resolution: float = 2.0**-20
    """Unit in which activations are summed, a power of two (see `choose_resolution`)."""
    level_bits: int = MANTISSA_BITS
    """Mantissa bits kept per cell and feature for AUROC: 23 is exact, fewer bound the memory."""


@dataclass(frozen=True)
class FeatureState:
    """Exactly mergeable result of the pass over some members of the cache.

    `occurrences_G` counts the tokens of each gene, whether a feature fired on them or not; `cells_F` the
    cells each feature fired in; `label_cells_L` the cells of each label seen. `spans` are the cell ranges
    looked at, kept to refuse counting a cell twice.
    """

    plan: PassPlan
    spans: tuple[tuple[int, int], ...]
    n_cells: int
    occurrences_G: Int64
    cells_F: Int64
    label_cells_L: Int64
    pairs: PairRun
    levels: LevelRun
    ranked: RankedCells

    @property
    def n_tokens(self) -> int:
        """Gene tokens looked at."""
        return int(self.occurrences_G.sum())


def choose_resolution(sae: FeatureEncoder, x_TD: torch.Tensor) -> float:
    """A power of two 2^24 below the largest activation of a sample: finer than float32 keeps of it.

    Sums then overflow 63 bits only after 5e11 tokens at the sample's maximum.
    """
    with torch.inference_mode():
        peak = float(sae.encode(x_TD[:SAMPLE_TOKENS].float()).max()) if len(x_TD) else 0.0
    return 2.0 ** (math.ceil(math.log2(peak)) - 24) if peak > 0 else PassPlan.resolution


def level_bits_for(n_cells: int, n_features: int) -> int:
    """Exact levels while one per cell and feature fits in memory, else 16 levels an octave."""
    return MANTISSA_BITS if n_cells * n_features <= EXACT_UP_TO else COARSE_BITS


def observe(
    plan: PassPlan,
    sae: FeatureEncoder,
    x_TD: torch.Tensor,
    cell_T: Integers,
    gene_T: Integers,
    is_gene_G: npt.NDArray[np.bool_],
    label_of_cell: Integers | None = None,
) -> FeatureState:
    """Look at one member: activations `x_TD`, global cell row and token id of each token, in any order.

    `is_gene_G` says which token ids are genes; `label_of_cell` holds a label number per cell row of the whole
    store, -1 for cells without one (they count everywhere except in the label tables).
    """
    keep_T = np.flatnonzero(is_gene_G[gene_T])
    # Whole cells together: then each (feature, cell) pair is final when its chunk is.
    keep_T = keep_T[np.lexsort((gene_T[keep_T], cell_T[keep_T]))]
    cells = cell_T[keep_T].astype(np.int64)
    genes = gene_T[keep_T].astype(np.int64)
    collector = _Collector(plan)
    for start, stop in whole_cell_chunks(cells):
        rows_T = torch.from_numpy(keep_T[start:stop])
        fired = _fire(plan, sae, x_TD, rows_T)
        collector.add(cells[start:stop], genes[start:stop], fired, label_of_cell)
    return collector.state(cells, genes)


def whole_cell_chunks(sorted_cells: Int64) -> Iterator[tuple[int, int]]:
    """Token ranges of about CHUNK_TOKENS that never cut a cell."""
    edges = np.append(segments(sorted_cells), sorted_cells.size)
    start = 0
    while start < sorted_cells.size:
        following = int(np.searchsorted(edges, start + CHUNK_TOKENS, side="right")) - 1
        stop = int(edges[following])
        if stop <= start:
            stop = int(edges[np.searchsorted(edges, start, side="right")])
        yield start, stop
        start = stop


@dataclass(frozen=True)
class _Fired:
    """The activations above zero of a chunk; `units_N` are they in multiples of the resolution."""

    row_N: Int64
    feature_N: Int64
    value_N: Float32
    units_N: Int64


def _fire(plan: PassPlan, sae: FeatureEncoder, x_TD: torch.Tensor, rows_T: torch.Tensor) -> _Fired:
    rows_at_once = max(1, DENSE_BYTES // (4 * plan.n_features))
    row_parts, feature_parts, value_parts = [], [], []
    with torch.inference_mode():
        for start in range(0, len(rows_T), rows_at_once):
            a_TF = sae.encode(x_TD[rows_T[start : start + rows_at_once]].float())
            if not math.isfinite(float(a_TF.sum())):
                raise ValueError(
                    "The activations hold NaN or infinity: the cache or the autoencoder is damaged."
                )
            row_N, feature_N = torch.nonzero(a_TF > 0, as_tuple=True)
            row_parts.append(row_N.numpy() + start)
            feature_parts.append(feature_N.numpy())
            value_parts.append(a_TF[row_N, feature_N].float().numpy())
    value_N = np.concatenate(value_parts)
    units_N = np.rint(value_N.astype(np.float64) / plan.resolution).astype(np.int64)
    return _Fired(np.concatenate(row_parts), np.concatenate(feature_parts), value_N, units_N)


@dataclass
class _Collector:
    """Runs gathered from the chunks of one member, merged now and then to stay small."""

    plan: PassPlan
    pairs: list[PairRun] = field(default_factory=list)
    levels: list[LevelRun] = field(default_factory=list)
    ranked: list[RankedCells] = field(default_factory=list)
    cells_F: Int64 = field(init=False)
    label_cells_L: Int64 = field(init=False)
    n_cells: int = 0
    waiting: int = 0

    def __post_init__(self) -> None:
        self.cells_F = np.zeros(self.plan.n_features, np.int64)
        self.label_cells_L = np.zeros(self.plan.n_labels, np.int64)

    def add(self, cell_T: Int64, gene_T: Int64, fired: _Fired, label_of_cell: Integers | None) -> None:
        """Fold one chunk of whole cells in."""
        starts_C = segments(cell_T)
        cell_C = cell_T[starts_C]
        tokens_C = np.diff(np.append(starts_C, cell_T.size))
        self.n_cells += cell_C.size
        key_N = fired.feature_N * self.plan.n_genes + gene_T[fired.row_N]
        one_N = np.ones(key_N.size, np.int64)
        self.pairs.append(merge_pairs([PairRun(key_N, one_N, fired.units_N, fired.value_N)]))

        slot_T = np.repeat(np.arange(cell_C.size), tokens_C)
        key_N = fired.feature_N * cell_C.size + slot_T[fired.row_N]
        by_cell = merge_pairs([PairRun(key_N, one_N, fired.units_N, fired.value_N)])
        feature_S, slot_S = np.divmod(by_cell.key_P, max(cell_C.size, 1))
        mean_S = by_cell.total_P * self.plan.resolution / tokens_C[slot_S]
        self.cells_F += np.bincount(feature_S, minlength=self.plan.n_features)
        chunk_ranked = RankedCells(feature_S, cell_C[slot_S], by_cell.peak_P, mean_S)
        self.ranked.append(merge_ranked([chunk_ranked], self.plan.top_cells))
        if label_of_cell is not None:
            self._add_levels(feature_S, by_cell.peak_P, label_of_cell[cell_C].astype(np.int64), slot_S)
        self.waiting += key_N.size
        if self.waiting > COMPACT_AT:
            self._compact()

    def _add_levels(self, feature_S: Int64, peak_S: Float32, label_C: Int64, slot_S: Int64) -> None:
        self.label_cells_L += np.bincount(label_C[label_C != NO_LABEL], minlength=self.plan.n_labels)
        label_S = label_C[slot_S]
        known_S = label_S != NO_LABEL
        pair_S = feature_S[known_S] * self.plan.n_labels + label_S[known_S]
        level_S = activation_level(peak_S[known_S], self.plan.level_bits)
        key_S = pair_S * level_count(self.plan.level_bits) + level_S
        self.levels.append(merge_levels([LevelRun(key_S, np.ones(key_S.size, np.int64))]))

    def _compact(self) -> None:
        self.pairs = [merge_pairs(self.pairs)]
        self.levels = [merge_levels(self.levels)]
        self.ranked = [merge_ranked(self.ranked, self.plan.top_cells)]
        self.waiting = 0

    def state(self, cells: Int64, genes: Int64) -> FeatureState:
        self._compact()
        return FeatureState(
            plan=self.plan,
            spans=((int(cells[0]), int(cells[-1])),) if cells.size else (),
            n_cells=self.n_cells,
            occurrences_G=np.bincount(genes, minlength=self.plan.n_genes).astype(np.int64),
            cells_F=self.cells_F,
            label_cells_L=self.label_cells_L,
            pairs=self.pairs[0],
            levels=self.levels[0],
            ranked=self.ranked[0],
        )


def empty_state(plan: PassPlan) -> FeatureState:
    """The neutral element of `merge`."""
    return FeatureState(
        plan=plan,
        spans=(),
        n_cells=0,
        occurrences_G=np.zeros(plan.n_genes, np.int64),
        cells_F=np.zeros(plan.n_features, np.int64),
        label_cells_L=np.zeros(plan.n_labels, np.int64),
        pairs=empty_pairs(),
        levels=empty_levels(),
        ranked=empty_ranked(),
    )


def merge(states: Iterable[FeatureState]) -> FeatureState:
    """One state from many: the same for every order and grouping.

    Raises ValueError when the plans differ or two states have looked at the same cells.
    """
    parts = list(states)
    if not parts:
        raise ValueError("There is no state to merge; start from empty_state(plan).")
    plan = parts[0].plan
    if any(part.plan != plan for part in parts):
        raise ValueError("States of different passes cannot be merged: their plans differ.")
    spans = tuple(sorted(span for part in parts for span in part.spans))
    for (first, last), (following, _) in pairwise(spans):
        if following <= last:
            raise ValueError(
                f"Cells {following} to {last} were counted twice (spans from {first} and {following})."
            )
    return FeatureState(
        plan=plan,
        spans=spans,
        n_cells=sum(part.n_cells for part in parts),
        occurrences_G=sum((part.occurrences_G for part in parts), np.zeros(plan.n_genes, np.int64)),
        cells_F=sum((part.cells_F for part in parts), np.zeros(plan.n_features, np.int64)),
        label_cells_L=sum((part.label_cells_L for part in parts), np.zeros(plan.n_labels, np.int64)),
        pairs=merge_pairs([part.pairs for part in parts]),
        levels=merge_levels([part.levels for part in parts]),
        ranked=merge_ranked([part.ranked for part in parts], plan.top_cells),
    )
