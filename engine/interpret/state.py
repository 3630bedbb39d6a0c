"""What a feature pass knows after some of the tokens, and how two such states become one.

Merging is exact, in any order and any grouping: sums of activations are kept as integers in units of a
resolution fixed before the pass, since integer addition is associative and float addition is not. A state
comes apart into what is about tokens and genes (`TokenTotals`) and what is about a range of features
(`FeatureTotals`), so ranges can be merged by different workers in bounded memory.

Shape legend: F features of a range, G token ids of the vocabulary, L labels, C spans of cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.interpret.levels import BINS, EXACT_LEVELS, RESOLUTION_BITS
from engine.interpret.runs import (
    CellPeaks,
    CountRun,
    Int64,
    PairRun,
    RankedCells,
    TokenSample,
    empty_counts,
    empty_pairs,
    empty_peaks,
    empty_ranked,
    empty_sample,
    merge_counts,
    merge_pairs,
    merge_peaks,
    merge_ranked,
    merge_samples,
)

EXACT_UP_TO = 1 << 26
"""Cells x features up to which every activation keeps its own level: at most 1 GB of occupied keys."""
EXPRESSION_UNIT = 2.0**-20
"""Unit of sums of expression alone; a gene may be summed over 2^39 tokens."""


@dataclass(frozen=True)
class PassPlan:
    """What all members of one pass share; states merge only under the same plan."""

    n_features: int
    n_genes: int
    """Size of the vocabulary; the token ids are below it."""
    n_labels: int = 0
    top_cells: int = 100
    resolution: float = 2.0**-20
    """Unit in which activations are summed, a power of two (see `resolution_for`)."""
    exact_levels: bool = True
    """Keep every activation's own rank for AUROC; else its bin of `levels.log_bin`, which bounds memory."""
    sample_share: float = 0.0
    """Share of the tokens kept whole for co-activation."""
    seed: int = 0
    """Of both samples."""
    cell_share: float = 0.0
    """Share of the cells of which every feature's strongest activation is kept (`interpret.presence`)."""

    @property
    def square_resolution(self) -> float:
        """Unit of sums of squares: the square of the sample's maximum is 2^28 of it."""
        return self.resolution**2 * 2.0**RESOLUTION_BITS

    @property
    def n_levels(self) -> int:
        return EXACT_LEVELS if self.exact_levels else BINS


def resolution_for(peak: float) -> float:
    """A power of two 2^28 below `peak`, the largest activation of a sample.

    Sums then overflow 63 bits only after 3e10 tokens at that maximum, or, times expression, after 2e9 at the
    maximum of both; a pair gets at most one token a cell.
    """
    return 2.0 ** (math.ceil(math.log2(peak)) - RESOLUTION_BITS) if peak > 0 else PassPlan.resolution


def exact_levels_for(n_cells: int, n_features: int) -> bool:
    """Whether one level per cell and feature fits in memory."""
    return n_cells * n_features <= EXACT_UP_TO


@dataclass(frozen=True)
class TokenTotals:
    """The part of a state that is about tokens and genes.

    spans_C2: first and last cell of each member looked at, ascending; kept to refuse counting a cell twice.
    tokens_G, expression_G: gene tokens of each token id, whether a feature fired on them or not, and the sum
    of their expression in `EXPRESSION_UNIT`. label_cells_L: cells of each label seen. counts: cells seen,
    tokens of which the store has no count, and tokens in the sample (those on which nothing fires included).
    """

    spans_C2: Int64
    counts: Int64
    tokens_G: Int64
    expression_G: Int64
    label_cells_L: Int64
    sample: TokenSample

    @classmethod
    def empty(cls, plan: PassPlan) -> TokenTotals:
        return cls(
            spans_C2=np.empty((0, 2), np.int64),
            counts=np.zeros(3, np.int64),
            tokens_G=np.zeros(plan.n_genes, np.int64),
            expression_G=np.zeros(plan.n_genes, np.int64),
            label_cells_L=np.zeros(plan.n_labels, np.int64),
            sample=empty_sample(),
        )

    @property
    def n_cells(self) -> int:
        return int(self.counts[0])

    @property
    def n_without_count(self) -> int:
        return int(self.counts[1])

    @property
    def n_sampled(self) -> int:
        return int(self.counts[2])

    @property
    def n_tokens(self) -> int:
        """Gene tokens looked at."""
        return int(self.tokens_G.sum())

    @classmethod
    def merge(cls, plan: PassPlan, parts: Sequence[TokenTotals]) -> TokenTotals:
        """Raises ValueError when two parts have looked at the same cells."""
        parts = [cls.empty(plan), *parts]
        spans_C2 = np.concatenate([part.spans_C2 for part in parts])
        spans_C2 = spans_C2[np.argsort(spans_C2[:, 0], kind="stable")]
        for (first, last), (following, _) in pairwise(spans_C2.tolist()):
            if following <= last:
                raise ValueError(
                    f"Cells {following} to {last} were counted twice (spans from {first} and {following})."
                )
        return cls(
            spans_C2=spans_C2,
            counts=_added([part.counts for part in parts]),
            tokens_G=_added([part.tokens_G for part in parts]),
            expression_G=_added([part.expression_G for part in parts]),
            label_cells_L=_added([part.label_cells_L for part in parts]),
            sample=merge_samples([part.sample for part in parts]),
        )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The same as named arrays, as they lie on disk."""
        return _arrays(self)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        return cls(**_fields(arrays, {"sample": TokenSample}))


@dataclass(frozen=True)
class FeatureTotals:
    """The part of a state that is about the features `[first, stop)`; keys count features from 0 even so.

    cells_F: cells each feature fired in. squares_F: sum of squared activations in `plan.square_resolution`.
    bins: feature * 64 + bin -> tokens. levels: (feature * n_labels + label) * n_levels + level -> cells whose
    strongest activation has that level. peaks: of the sampled cells.
    """

    extent: Int64
    cells_F: Int64
    squares_F: Int64
    pairs: PairRun
    bins: CountRun
    levels: CountRun
    ranked: RankedCells
    peaks: CellPeaks

    @classmethod
    def empty(cls, first: int, stop: int) -> FeatureTotals:
        none_F = np.zeros(stop - first, np.int64)
        return cls(
            extent=np.array([first, stop], np.int64),
            cells_F=none_F,
            squares_F=none_F,
            pairs=empty_pairs(),
            bins=empty_counts(),
            levels=empty_counts(),
            ranked=empty_ranked(),
            peaks=empty_peaks(),
        )

    @property
    def first(self) -> int:
        return int(self.extent[0])

    @property
    def stop(self) -> int:
        return int(self.extent[1])

    @classmethod
    def merge(cls, plan: PassPlan, parts: Sequence[FeatureTotals]) -> FeatureTotals:
        """Raises ValueError when there is no part, or parts are of different ranges."""
        if len({(part.first, part.stop) for part in parts}) != 1:
            raise ValueError("only states of one and the same range of features can be merged")
        return cls(
            extent=parts[0].extent,
            cells_F=_added([part.cells_F for part in parts]),
            squares_F=_added([part.squares_F for part in parts]),
            pairs=merge_pairs([part.pairs for part in parts]),
            bins=merge_counts([part.bins for part in parts]),
            levels=merge_counts([part.levels for part in parts]),
            ranked=merge_ranked([part.ranked for part in parts], plan.top_cells),
            peaks=merge_peaks([part.peaks for part in parts]),
        )

    def cut(self, plan: PassPlan, edges: Sequence[int]) -> Iterator[FeatureTotals]:
        """The ranges between `edges`, which begin at `first` and end at `stop`."""
        for first, stop in pairwise(edges):
            dense = slice(first - self.first, stop - self.first)
            yield FeatureTotals(
                extent=np.array([first, stop], np.int64),
                cells_F=self.cells_F[dense],
                squares_F=self.squares_F[dense],
                pairs=_between(self.pairs, first * plan.n_genes, stop * plan.n_genes),
                bins=_between(self.bins, first * BINS, stop * BINS),
                levels=_between(self.levels, *(f * plan.n_labels * plan.n_levels for f in (first, stop))),
                ranked=_between(self.ranked, first, stop),
                peaks=_between(self.peaks, first, stop),
            )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The same as named arrays, as they lie on disk."""
        return _arrays(self)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        runs = {
            "pairs": PairRun,
            "bins": CountRun,
            "levels": CountRun,
            "ranked": RankedCells,
            "peaks": CellPeaks,
        }
        return cls(**_fields(arrays, runs))


@dataclass(frozen=True)
class FeatureState:
    """Exactly mergeable result of the pass over some cells, for all features or a range of them."""

    plan: PassPlan
    tokens: TokenTotals
    features: FeatureTotals


def empty_state(plan: PassPlan) -> FeatureState:
    """The neutral element of `merge`."""
    return FeatureState(plan, TokenTotals.empty(plan), FeatureTotals.empty(0, plan.n_features))


def merge(states: Sequence[FeatureState]) -> FeatureState:
    """One state from many: the same for every order and grouping.

    Raises ValueError when the plans differ or two states have looked at the same cells.
    """
    if not states:
        raise ValueError("There is no state to merge; start from empty_state(plan).")
    plan = states[0].plan
    if any(state.plan != plan for state in states):
        raise ValueError("States of different passes cannot be merged: their plans differ.")
    return FeatureState(
        plan,
        TokenTotals.merge(plan, [state.tokens for state in states]),
        FeatureTotals.merge(plan, [state.features for state in states]),
    )


def _added(arrays: Sequence[Int64]) -> Int64:
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    return total


def _between(run: Any, first_key: int, stop_key: int) -> Any:
    """The entries of a run whose keys (its first column) lie in a range; a copy, so the rest can go."""
    start, stop = np.searchsorted(run[0], [first_key, stop_key])
    return type(run)(*(column[start:stop].copy() for column in run))


def _arrays(part: TokenTotals | FeatureTotals) -> dict[str, npt.NDArray[Any]]:
    """Fields by name; those of a run as `run.column`."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, value in vars(part).items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            arrays |= {f"{name}.{column}": array for column, array in value._asdict().items()}
    return arrays


def _fields(arrays: Mapping[str, npt.NDArray[Any]], runs: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {name: array for name, array in arrays.items() if "." not in name}
    for name, run in runs.items():
        fields[name] = run(**{column: arrays[f"{name}.{column}"] for column in run._fields})
    return fields
