"""Sorted runs: reduction, counting, ranking."""

from __future__ import annotations

import numpy as np

from engine.interpret.runs import (
    CountRun,
    PairRun,
    RankedCells,
    TokenSample,
    counted,
    empty_counts,
    empty_pairs,
    empty_ranked,
    empty_sample,
    merge_counts,
    merge_pairs,
    merge_ranked,
    merge_samples,
    rank_within,
    segment_sums,
    segments,
)


def test_pairs_are_summed_by_key() -> None:
    run = PairRun(
        np.array([7, 3, 7]),
        np.array([1, 2, 4]),
        np.array([10, 20, 30]),
        np.array([100, 200, 300]),
        np.array([0.5, 1.5, 2.5], np.float32),
    )
    merged = merge_pairs([run, empty_pairs()])
    assert merged.key_P.tolist() == [3, 7]
    assert merged.fired_P.tolist() == [2, 5]
    assert merged.total_P.tolist() == [20, 40]
    assert merged.weighted_P.tolist() == [200, 400]
    assert merged.peak_P.tolist() == [1.5, 2.5]


def test_nothing_merges_to_nothing() -> None:
    assert merge_pairs([]).key_P.size == merge_pairs([empty_pairs()]).key_P.size == 0
    assert merge_counts([empty_counts()]).key_K.size == 0
    assert merge_ranked([empty_ranked()], 3).cell_R.size == 0
    assert merge_samples([empty_sample()]).token_S.size == 0
    assert counted(np.empty(0, np.int64), 9).key_K.size == 0


def test_segment_sums_survive_an_overflow_of_the_running_sum() -> None:
    large = np.int64(2**62)
    values = np.array([large, 3, large, large - 1, 5], np.int64)
    assert segment_sums(values, np.array([0, 2, 3, 4])).tolist() == [2**62 + 3, 2**62, 2**62 - 1, 5]


def test_counting_is_the_same_dense_and_sorted() -> None:
    keys = np.random.default_rng(0).integers(0, 50, 300)
    for n_keys in (50, 10**12):
        run = counted(keys, n_keys)
        values, counts = np.unique(keys, return_counts=True)
        np.testing.assert_array_equal(run.key_K, values)
        np.testing.assert_array_equal(run.count_K, counts)
    doubled = merge_counts([run, CountRun(run.key_K[:3], run.count_K[:3])])
    np.testing.assert_array_equal(doubled.count_K[:3], 2 * counts[:3])


def test_equal_peaks_go_to_the_smaller_cell() -> None:
    run = RankedCells(
        np.array([1, 1, 0, 1]), np.array([9, 4, 2, 6]), np.array([2, 2, 1, 3], np.float32), np.arange(4.0)
    )
    ranked = merge_ranked([run], 2)
    assert ranked.feature_R.tolist() == [0, 1, 1]
    assert ranked.cell_R.tolist() == [2, 6, 4]
    assert ranked.mean_R.tolist() == [2.0, 3.0, 1.0]


def test_samples_are_ordered_by_token_and_feature() -> None:
    late = TokenSample(np.array([8, 8]), np.array([1, 4], np.int32), np.array([1, 2], np.float32))
    early = TokenSample(np.array([3]), np.array([9], np.int32), np.array([3], np.float32))
    merged = merge_samples([late, early])
    assert merged.token_S.tolist() == [3, 8, 8]
    assert merged.feature_S.tolist() == [9, 1, 4]


def test_rank_within_groups() -> None:
    assert rank_within(np.array([3, 3, 7, 7, 7])).tolist() == [0, 1, 0, 1, 2]
    assert segments(np.array([3, 3, 7])).tolist() == [0, 2]
