"""Sorted runs: sparse counts and sums keyed by (feature, gene), (feature, label, level) or (feature, cell).

The dense tables would not fit (16,384 features x 60,000 genes x 16 bytes = 16 GB), the occupied keys do: at
most one per stored activation, in practice a few thousand genes a feature. A run keeps each occupied key
once, in ascending order. Merging is concatenate, sort, reduce; because every reduced quantity is an integer
or a maximum, merging is exactly associative and commutative, whatever the order in which shards arrive.

Shape legend: P occupied pairs, K occupied level keys, R ranked cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

MANTISSA_BITS = 23
"""Bits of mantissa in a float32: an activation level that keeps all of them is the activation itself."""


@dataclass(frozen=True)
class PairRun:
    """What each (feature, gene) pair that ever fired adds up to.

    `key_P` is feature * n_genes + gene, ascending and unique. `fired_P` counts tokens, `total_P` is the sum
    of activations in units of the pass's resolution, `peak_P` the largest activation.
    """

    key_P: Int64
    fired_P: Int64
    total_P: Int64
    peak_P: Float32


@dataclass(frozen=True)
class LevelRun:
    """How many cells of a label reach an activation level: the histogram behind AUROC and enrichment.

    `key_K` is (feature * n_labels + label) * n_levels + level, ascending and unique; `cells_K` counts cells.
    """

    key_K: Int64
    cells_K: Int64


@dataclass(frozen=True)
class RankedCells:
    """The strongest cells of each feature, ordered by feature, then falling peak, then rising cell number."""

    feature_R: Int64
    cell_R: Int64
    peak_R: Float32
    mean_R: Float64


def empty_pairs() -> PairRun:
    return PairRun(
        np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    )


def empty_levels() -> LevelRun:
    return LevelRun(np.empty(0, np.int64), np.empty(0, np.int64))


def empty_ranked() -> RankedCells:
    return RankedCells(
        np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float64)
    )


def segments(sorted_keys: Int64) -> Int64:
    """First position of each distinct value of an ascending array."""
    if sorted_keys.size == 0:
        return np.empty(0, np.int64)
    return np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))


def merge_pairs(runs: Sequence[PairRun]) -> PairRun:
    """One run with every key of `runs` once; input runs may repeat keys and need not be sorted."""
    keys = np.concatenate([run.key_P for run in runs]) if runs else np.empty(0, np.int64)
    if keys.size == 0:
        return empty_pairs()
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = segments(keys)
    return PairRun(
        key_P=keys[starts],
        fired_P=np.add.reduceat(np.concatenate([run.fired_P for run in runs])[order], starts),
        total_P=np.add.reduceat(np.concatenate([run.total_P for run in runs])[order], starts),
        peak_P=np.maximum.reduceat(np.concatenate([run.peak_P for run in runs])[order], starts),
    )


def merge_levels(runs: Sequence[LevelRun]) -> LevelRun:
    """One histogram with every key of `runs` once."""
    keys = np.concatenate([run.key_K for run in runs]) if runs else np.empty(0, np.int64)
    if keys.size == 0:
        return empty_levels()
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = segments(keys)
    return LevelRun(
        keys[starts], np.add.reduceat(np.concatenate([run.cells_K for run in runs])[order], starts)
    )


def merge_ranked(runs: Sequence[RankedCells], keep: int) -> RankedCells:
    """The `keep` strongest cells of every feature over all runs; equal peaks go to the smaller cell number.

    A cell must appear in one run only: its tokens live in one cache member, and members are disjoint.
    """
    feature = np.concatenate([run.feature_R for run in runs]) if runs else np.empty(0, np.int64)
    if feature.size == 0 or keep == 0:
        return empty_ranked()
    cell = np.concatenate([run.cell_R for run in runs])
    peak = np.concatenate([run.peak_R for run in runs])
    mean = np.concatenate([run.mean_R for run in runs])
    order = np.lexsort((cell, -peak, feature))
    order = order[rank_within(feature[order]) < keep]
    return RankedCells(feature[order], cell[order], peak[order], mean[order])


def rank_within(sorted_groups: Int64) -> Int64:
    """Position of each entry inside its group, of an array with contiguous groups: [3,3,7] -> [0,1,0]."""
    starts = segments(sorted_groups)
    lengths = np.diff(np.append(starts, sorted_groups.size))
    return np.arange(sorted_groups.size, dtype=np.int64) - np.repeat(starts, lengths)


def activation_level(peak: Float32, bits: int) -> Int64:
    """Integer level of a positive activation, in the same order: its float32 bits, cut to `bits` of mantissa.

    With `bits` = 23 distinct activations keep distinct levels (exact ranks); with 4, activations within 6 %
    of each other may share a level, which bounds a histogram at 16 levels an octave however many cells there
    are.
    """
    return np.ascontiguousarray(peak, dtype=np.float32).view(np.int32).astype(np.int64) >> (
        MANTISSA_BITS - bits
    )


def level_count(bits: int) -> int:
    """Number of levels `activation_level` can return: 8 exponent bits and `bits` of mantissa."""
    return 1 << (8 + bits)
