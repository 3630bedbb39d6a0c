"""Sorted runs: reduction, ranking, activation levels."""

from __future__ import annotations

import numpy as np

from engine.interpret.runs import (
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
    rank_within,
    segments,
)


def test_pairs_are_summed_by_key() -> None:
    run = PairRun(
        np.array([7, 3, 7]),
        np.array([1, 2, 4]),
        np.array([10, 20, 30]),
        np.array([0.5, 1.5, 2.5], np.float32),
    )
    merged = merge_pairs([run, empty_pairs()])
    assert merged.key_P.tolist() == [3, 7]
    assert merged.fired_P.tolist() == [2, 5]
    assert merged.total_P.tolist() == [20, 40]
    assert merged.peak_P.tolist() == [1.5, 2.5]


def test_nothing_merges_to_nothing() -> None:
    assert merge_pairs([]).key_P.size == merge_pairs([empty_pairs()]).key_P.size == 0
    assert merge_levels([empty_levels()]).key_K.size == 0
    assert merge_ranked([empty_ranked()], 3).cell_R.size == 0


def test_equal_peaks_go_to_the_smaller_cell() -> None:
    run = RankedCells(
        np.array([1, 1, 0, 1]), np.array([9, 4, 2, 6]), np.array([2, 2, 1, 3], np.float32), np.arange(4.0)
    )
    ranked = merge_ranked([run], 2)
    assert ranked.feature_R.tolist() == [0, 1, 1]
    assert ranked.cell_R.tolist() == [2, 6, 4]
    assert ranked.mean_R.tolist() == [2.0, 3.0, 1.0]


def test_rank_within_groups() -> None:
    assert rank_within(np.array([3, 3, 7, 7, 7])).tolist() == [0, 1, 0, 1, 2]
    assert segments(np.array([3, 3, 7])).tolist() == [0, 2]


def test_levels_keep_the_order_of_activations() -> None:
    peak = np.sort(np.random.default_rng(0).lognormal(0, 5, 1000).astype(np.float32))
    for bits in (23, 4):
        level = activation_level(peak, bits)
        assert (np.diff(level) >= 0).all()
        assert 0 <= level.min() <= level.max() < level_count(bits)
    assert np.unique(activation_level(peak, 23)).size == np.unique(peak).size
    same = np.diff(activation_level(peak, 4)) == 0
    assert (peak[1:][same] / peak[:-1][same] < 1 + 1 / 16).all()
