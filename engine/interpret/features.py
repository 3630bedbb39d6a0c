"""Looking at tokens: from the codes of some cells to the state of a feature pass.

Tokens that are not genes (<cls>, <pad>, masks) are left out by their class, never by the sign or size of
their id. Nothing loops over tokens or features: codes are turned feature by feature with a counting sort
(CSR to CSC), once with tokens ordered by gene and once by cell, and every sum is a segment of the result.

Shape legend: T tokens, F features, G token ids of the vocabulary, C cells, N activations above zero,
S distinct (feature, cell) pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from engine.interpret.levels import BINS, exact_level, log_bin
from engine.interpret.presence import is_sampled
from engine.interpret.runs import (
    CellPeaks,
    Float32,
    Float64,
    Int32,
    Int64,
    RankedCells,
    TokenSample,
    counted,
    merge_counts,
    merge_pairs,
    merge_peaks,
    merge_ranked,
    merge_samples,
    run_of_activations,
    segment_sums,
    segments,
)
from engine.interpret.state import EXPRESSION_UNIT, FeatureState, FeatureTotals, PassPlan, TokenTotals
from engine.streaming.draws import token_draws

Integers = npt.NDArray[np.integer[Any]]

NO_LABEL = -1
CHUNK_TOKENS = 32_768
"""Tokens encoded together, whole cells only. At 64 activations a token no array exceeds `_LARGEST_KEPT`."""
MOST_ACTIVATIONS = 4 << 20
"""Activations added up together: twice those of a chunk at 64 a token, half a GB at work."""
_LARGEST_KEPT = 31 << 20
"""Bytes. glibc keeps freed blocks up to 32 MiB for the next array, once it has seen one of that size freed;
others go back to the system, and half of the CPU time goes into their page faults."""
COMPACT_AT = 16 << 20
"""Entries collected before runs are merged: rarer merges sort less in total, 16 Mi pairs take 600 MB."""
_SAMPLE_STREAM = 2
"""Draws of `token_draws` that neither the sample of long cells nor the order of a cache uses."""
_POSITION_BITS = 24


class GeneTokens(NamedTuple):
    """Where tokens come from, and how strongly their genes are expressed; whole cells, in any order."""

    cell_T: Integers
    """Row of the cell in the store."""
    gene_T: Integers
    """Token id."""
    position_T: Integers
    """Place within the cell: with the cell, the token's identity."""
    expression_T: Float32

    def at(self, rows: Integers | slice) -> GeneTokens:
        return GeneTokens(
            self.cell_T[rows], self.gene_T[rows], self.position_T[rows], self.expression_T[rows]
        )


def whole_cell_chunks(sorted_cells: Integers) -> Iterator[tuple[int, int]]:
    """Token ranges of about CHUNK_TOKENS that never cut a cell; a single longer cell makes a longer chunk."""
    edges = np.append(segments(sorted_cells), sorted_cells.size)
    start = 0
    while start < sorted_cells.size:
        following = int(np.searchsorted(edges, start + CHUNK_TOKENS, side="right")) - 1
        stop = int(edges[following])
        if stop <= start:
            stop = int(edges[np.searchsorted(edges, start, side="right")])
        yield start, stop
        start = stop


def _whole(value_N: Float64, unit: float) -> Float64:
    """Values in whole units, in place; the unit is a power of two, so its reciprocal is exact."""
    value_N *= 1 / unit
    return np.rint(value_N, out=value_N)


def _halves(cell_T: Integers) -> tuple[Int64, Int64]:
    """The tokens of some cells, and those of the others: about as many, each at least one cell."""
    order = np.argsort(cell_T, kind="stable")
    edges = segments(cell_T[order])[1:]
    cut = int(edges[np.abs(edges - len(order) // 2).argmin()])
    return order[:cut], order[cut:]


class _ByFeature(NamedTuple):
    """Activations ordered by feature, and within a feature by a chosen order of tokens."""

    feature_N: Int32
    token_N: Int32
    value_N: Float32
    units_N: Int64


@dataclass
class Observer:
    """Gathers the state of one member of a pass, chunk by chunk; runs are merged now and then to stay small.

    label_of_cell: a label number per cell row of the whole store, -1 for cells without one (they count
    everywhere except in the label tables).
    """

    plan: PassPlan
    label_of_cell: Integers | None = None
    runs: dict[str, list[Any]] = field(init=False)
    compact_at: int = field(default_factory=lambda: COMPACT_AT)

    def __post_init__(self) -> None:
        plan = self.plan
        np.empty(_LARGEST_KEPT, np.uint8)  # allocated, never touched, and freed at once
        self.runs = {"pairs": [], "bins": [], "levels": [], "ranked": [], "peaks": [], "sample": []}
        self.cells_F, self.squares_F = np.zeros((2, plan.n_features), np.int64)
        self.tokens_G, self.expression_G = np.zeros((2, plan.n_genes), np.int64)
        self.label_cells_L = np.zeros(plan.n_labels, np.int64)
        self.counts = np.zeros(3, np.int64)
        self.span: tuple[int, int] | None = None

    def add(self, tokens: GeneTokens, codes: sparse.csr_matrix) -> None:
        """Fold in whole cells that were not added before. `codes`: the activations above zero, [T, F]."""
        if not len(tokens.cell_T):
            return
        if codes.nnz > MOST_ACTIVATIONS and tokens.cell_T.min() < tokens.cell_T.max():
            for half in _halves(tokens.cell_T):
                self.add(tokens.at(half), codes[half])
            return
        self._add_tokens(tokens)
        self._add_genes(tokens, codes)
        self._add_cells(tokens, codes)
        if self.plan.sample_share:
            self._add_sample(tokens, codes)
        if sum(len(run[0]) for runs in self.runs.values() for run in runs) > self.compact_at:
            self._compact()

    def state(self) -> FeatureState:
        """What was seen so far."""
        self._compact()
        plan = self.plan
        return FeatureState(
            plan,
            TokenTotals(
                spans_C2=np.array([self.span] if self.span else np.empty((0, 2)), np.int64),
                counts=self.counts,
                tokens_G=self.tokens_G,
                expression_G=self.expression_G,
                label_cells_L=self.label_cells_L,
                sample=self.runs["sample"][0],
            ),
            FeatureTotals(
                extent=np.array([0, plan.n_features], np.int64),
                cells_F=self.cells_F,
                squares_F=self.squares_F,
                pairs=self.runs["pairs"][0],
                bins=self.runs["bins"][0],
                levels=self.runs["levels"][0],
                ranked=self.runs["ranked"][0],
                peaks=self.runs["peaks"][0],
            ),
        )

    def _add_tokens(self, tokens: GeneTokens) -> None:
        first, last = int(tokens.cell_T.min()), int(tokens.cell_T.max())
        self.span = (
            (first, last) if self.span is None else (min(first, self.span[0]), max(last, self.span[1]))
        )
        self.tokens_G += np.bincount(tokens.gene_T, minlength=self.plan.n_genes)
        units_T = np.rint(tokens.expression_T / EXPRESSION_UNIT)
        # bincount adds float64; sums of integers below 2^53 are exact.
        self.expression_G += np.bincount(tokens.gene_T, weights=units_T, minlength=self.plan.n_genes).astype(
            np.int64
        )
        self.counts[1] += np.count_nonzero(tokens.expression_T == 0)

    def _add_genes(self, tokens: GeneTokens, codes: sparse.csr_matrix) -> None:
        """Sums per (feature, gene), sums of squares and the histogram of activations."""
        order = np.argsort(tokens.gene_T, kind="stable")
        fired = self._by_feature(codes, order)
        gene_T, expression_T = tokens.gene_T[order].astype(np.int64), tokens.expression_T[order]
        value_N = fired.value_N.astype(np.float64)
        weighted_N = _whole(value_N * expression_T[fired.token_N], self.plan.resolution).astype(np.int64)
        key_N = fired.feature_N * np.int64(self.plan.n_genes) + gene_T[fired.token_N]
        self.runs["pairs"].append(run_of_activations(key_N, fired.units_N, weighted_N, fired.value_N))
        squares_N = _whole(value_N * value_N, self.plan.square_resolution)
        self.squares_F += np.bincount(
            fired.feature_N, weights=squares_N, minlength=self.plan.n_features
        ).astype(np.int64)
        bin_N = log_bin(fired.value_N, self.plan.resolution)
        self.runs["bins"].append(
            counted(fired.feature_N * np.int64(BINS) + bin_N, self.plan.n_features * BINS)
        )

    def _add_cells(self, tokens: GeneTokens, codes: sparse.csr_matrix) -> None:
        """Strongest activation and mean of each feature in each cell: top cells, and levels by label."""
        order = np.argsort(tokens.cell_T, kind="stable")
        cell_T = tokens.cell_T[order].astype(np.int64)
        starts_C = segments(cell_T)
        cell_C, tokens_C = cell_T[starts_C], np.diff(np.append(starts_C, cell_T.size))
        self.counts[0] += cell_C.size
        label_C = None
        if self.label_of_cell is not None and self.plan.n_labels:
            label_C = self.label_of_cell[cell_C].astype(np.int64)
            self.label_cells_L += np.bincount(label_C[label_C != NO_LABEL], minlength=self.plan.n_labels)
        slot_T = np.repeat(np.arange(cell_C.size), tokens_C)
        fired = self._by_feature(codes, order)
        key_N = fired.feature_N * np.int64(cell_C.size) + slot_T[fired.token_N]
        starts = segments(key_N)
        if not starts.size:
            return
        feature_S, slot_S = np.divmod(key_N[starts], cell_C.size)
        peak_S = np.maximum.reduceat(fired.value_N, starts)
        mean_S = segment_sums(fired.units_N, starts) * self.plan.resolution / tokens_C[slot_S]
        self.cells_F += np.bincount(feature_S, minlength=self.plan.n_features)
        self.runs["ranked"].append(RankedCells(feature_S, cell_C[slot_S], peak_S, mean_S))
        if self.plan.cell_share:
            kept_S = np.flatnonzero(is_sampled(self.plan, cell_C)[slot_S])
            peaks = feature_S[kept_S].astype(np.int32), cell_C[slot_S[kept_S]].astype(np.int32)
            self.runs["peaks"].append(CellPeaks(*peaks, peak_S[kept_S]))
        if label_C is not None:
            self._add_levels(feature_S, peak_S, label_C[slot_S])

    def _add_levels(self, feature_S: Int64, peak_S: Float32, label_S: Int64) -> None:
        plan = self.plan
        known_S = np.flatnonzero(label_S != NO_LABEL)
        peak_S = peak_S[known_S]
        level_S = exact_level(peak_S) if plan.exact_levels else log_bin(peak_S, plan.resolution)
        pair_S = feature_S[known_S] * plan.n_labels + label_S[known_S]
        self.runs["levels"].append(
            counted(pair_S * plan.n_levels + level_S, plan.n_features * plan.n_labels * plan.n_levels)
        )

    def _add_sample(self, tokens: GeneTokens, codes: sparse.csr_matrix) -> None:
        draws_T = token_draws(self.plan.seed, tokens.cell_T, tokens.position_T, stream=_SAMPLE_STREAM)
        rows = np.flatnonzero(draws_T < np.uint64(self.plan.sample_share * (2.0**64 - 2048)))
        self.counts[2] += rows.size
        chosen = codes[rows]
        key_T = (tokens.cell_T[rows].astype(np.int64) << _POSITION_BITS) + tokens.position_T[rows]
        sample = TokenSample(
            np.repeat(key_T, np.diff(chosen.indptr)), chosen.indices.astype(np.int32), chosen.data
        )
        self.runs["sample"].append(sample)

    def _by_feature(self, codes: sparse.csr_matrix, order: Int64) -> _ByFeature:
        """`codes` turned feature by feature, its tokens in the given order (in which `token_N` counts)."""
        turned = codes[order].tocsc()
        feature_N = np.repeat(np.arange(codes.shape[1], dtype=np.int32), np.diff(turned.indptr))
        units_N = _whole(turned.data.astype(np.float64), self.plan.resolution).astype(np.int64)
        return _ByFeature(feature_N, turned.indices, turned.data, units_N)

    def _compact(self) -> None:
        runs = self.runs
        self.runs = {
            "pairs": [merge_pairs(runs["pairs"])],
            "bins": [merge_counts(runs["bins"])],
            "levels": [merge_counts(runs["levels"])],
            "ranked": [merge_ranked(runs["ranked"], self.plan.top_cells)],
            "peaks": [merge_peaks(runs["peaks"])],
            "sample": [merge_samples(runs["sample"])],
        }
        # At least twice what is left, or every chunk would merge all of it again.
        self.compact_at = max(COMPACT_AT, 2 * sum(len(run[0]) for runs in self.runs.values() for run in runs))
