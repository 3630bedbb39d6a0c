"""Sorted runs: sparse counts and sums keyed by (feature, gene), (feature, label, level) or (feature, cell).

The dense tables would not fit (16,384 features x 60,000 genes x 36 bytes = 35 GB), the occupied keys do: at
most one per stored activation, in practice a few thousand genes a feature. A run keeps each occupied key
once, in ascending order, so the keys of a range of features lie together. Merging is concatenate, sort,
reduce; because every reduced quantity is an integer or a maximum, merging is exactly associative and
commutative, whatever the order in which shards arrive.

Shape legend: P occupied pairs, K occupied keys of a count, R ranked cells, S sampled activations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


# Counting in a dense table beats sorting until the table is this many times as long as the keys.
_DENSE_PER_KEY = 4


class PairRun(NamedTuple):
    """What each (feature, gene) pair that ever fired adds up to.

    `key_P` is feature * n_genes + gene, ascending and unique. `fired_P` counts tokens, `total_P` is the sum
    of activations and `weighted_P` that of activation x expression, both in units of the pass's resolution;
    `peak_P` is the largest activation.
    """

    key_P: Int64
    fired_P: Int64
    total_P: Int64
    weighted_P: Int64
    peak_P: Float32


class CountRun(NamedTuple):
    """How often each key occurs, ascending and unique: the sparse form of a histogram per feature."""

    key_K: Int64
    count_K: Int64


class RankedCells(NamedTuple):
    """The strongest cells of each feature, ordered by feature, then falling peak, then rising cell number."""

    feature_R: Int64
    cell_R: Int64
    peak_R: Float32
    mean_R: Float64


class CellPeaks(NamedTuple):
    """The strongest activation of each feature in each of some cells, ordered by feature, then cell; pairs in
    which it is silent are left out."""

    feature_S: Int32
    cell_S: Int32
    peak_S: Float32


class TokenSample(NamedTuple):
    """All activations above zero of some tokens, ordered by token, then feature."""

    token_S: Int64
    feature_S: Int32
    value_S: Float32


def empty_pairs() -> PairRun:
    none = np.empty(0, np.int64)
    return PairRun(none, none, none, none, np.empty(0, np.float32))


def empty_counts() -> CountRun:
    return CountRun(np.empty(0, np.int64), np.empty(0, np.int64))


def empty_ranked() -> RankedCells:
    return RankedCells(
        np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float64)
    )


def empty_peaks() -> CellPeaks:
    return CellPeaks(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))


def empty_sample() -> TokenSample:
    return TokenSample(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))


def segments(sorted_keys: npt.NDArray[Any]) -> Int64:
    """First position of each distinct value of an ascending array."""
    if sorted_keys.size == 0:
        return np.empty(0, np.int64)
    return np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))


def segment_sums(values: Int64, starts: Int64) -> Int64:
    """Sum of each segment that begins at `starts`, the first at 0.

    Differences of one running sum: with integers exact even where that overflows, and several times as fast
    as `np.add.reduceat` on the short segments we have.
    """
    if not starts.size:
        return np.empty(0, np.int64)
    running = np.cumsum(values)
    sums = np.empty(starts.size, np.int64)
    sums[-1] = running[-1]
    # Other modes than clip check each index through a buffer.
    np.take(running, starts[1:] - 1, out=sums[:-1], mode="clip")
    sums[1:] -= sums[:-1].copy()
    return sums


def run_of_activations(key_N: Int64, units_N: Int64, weighted_N: Int64, value_N: Float32) -> PairRun:
    """The run of single activations whose keys ascend: each counts as one token."""
    starts = segments(key_N)
    if not starts.size:
        return empty_pairs()
    return PairRun(
        key_N[starts],
        np.diff(starts, append=key_N.size),
        segment_sums(units_N, starts),
        segment_sums(weighted_N, starts),
        np.maximum.reduceat(value_N, starts),
    )


def _reduced(pairs: PairRun) -> PairRun:
    """Pairs whose keys ascend but repeat, to one entry a key."""
    starts = segments(pairs.key_P)
    if starts.size == pairs.key_P.size:
        return pairs
    return PairRun(
        pairs.key_P[starts],
        segment_sums(pairs.fired_P, starts),
        segment_sums(pairs.total_P, starts),
        segment_sums(pairs.weighted_P, starts),
        np.maximum.reduceat(pairs.peak_P, starts),
    )


def merge_pairs(runs: Sequence[PairRun]) -> PairRun:
    """One run with every key of `runs` once; input runs may repeat keys and need not be sorted."""
    runs = [run for run in runs if run.key_P.size]
    if not runs:
        return empty_pairs()
    columns = [np.concatenate(column) for column in zip(*runs, strict=True)]
    # Stable: numpy then merges stretches that are sorted already instead of sorting anew.
    order = np.argsort(columns[0], kind="stable")
    return _reduced(PairRun(*(column[order] for column in columns)))


def counted(keys: Int64, n_keys: int) -> CountRun:
    """How often each key below `n_keys` occurs in an array of any order."""
    if n_keys <= _DENSE_PER_KEY * keys.size:
        count_K = np.bincount(keys, minlength=n_keys)
        occupied = np.flatnonzero(count_K)
        return CountRun(occupied, count_K[occupied])
    ascending = np.sort(keys)
    starts = segments(ascending)
    return CountRun(ascending[starts], np.diff(np.append(starts, ascending.size)))


def merge_counts(runs: Sequence[CountRun]) -> CountRun:
    """One histogram with every key of `runs` once."""
    runs = [run for run in runs if run.key_K.size]
    if not runs:
        return empty_counts()
    keys = np.concatenate([run.key_K for run in runs])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = segments(keys)
    counts = np.concatenate([run.count_K for run in runs])[order]
    return CountRun(keys[starts], segment_sums(counts, starts))


def merge_ranked(runs: Sequence[RankedCells], keep: int) -> RankedCells:
    """The `keep` strongest cells of every feature over all runs; equal peaks go to the smaller cell number.

    A cell must appear in one run only: its tokens live in one cache member, and members are disjoint.
    """
    runs = [run for run in runs if run.feature_R.size]
    if not runs or keep == 0:
        return empty_ranked()
    feature, cell, peak, mean = (np.concatenate(column) for column in zip(*runs, strict=True))
    # Positive floats keep their order as integers, so feature and falling peak fit one key.
    falling = feature * 2**32 - np.ascontiguousarray(peak).view(np.int32)
    order = np.lexsort((cell, falling))
    order = order[rank_within(feature[order]) < keep]
    return RankedCells(feature[order], cell[order], peak[order], mean[order])


def merge_peaks(runs: Sequence[CellPeaks]) -> CellPeaks:
    """The pairs of all runs. A cell must appear in one run only."""
    return CellPeaks(*_in_order(runs or [empty_peaks()]))


def merge_samples(runs: Sequence[TokenSample]) -> TokenSample:
    """The tokens of all runs in the order of tokens. A token must appear in one run only."""
    return TokenSample(*_in_order(runs or [empty_sample()]))


def _in_order(runs: Sequence[tuple[npt.NDArray[Any], ...]]) -> Iterator[npt.NDArray[Any]]:
    """Columns of all runs, their entries by the first column and then the second."""
    columns = [np.concatenate(column) for column in zip(*runs, strict=True)]
    order = np.lexsort((columns[1], columns[0]))
    return (column[order] for column in columns)


def rank_within(sorted_groups: npt.NDArray[Any]) -> Int64:
    """Position of each entry inside its group, of an array with contiguous groups: [3,3,7] -> [0,1,0]."""
    starts = segments(sorted_groups)
    lengths = np.diff(np.append(starts, sorted_groups.size))
    return np.arange(sorted_groups.size, dtype=np.int64) - np.repeat(starts, lengths)
