"""Levels keep the order of activations; bins are where their edges say."""

from __future__ import annotations

import numpy as np

from engine.interpret.levels import BINS, EXACT_LEVELS, bin_edges, exact_level, log_bin


def test_exact_levels_keep_order_and_distinctness() -> None:
    value = np.sort(np.random.default_rng(0).lognormal(0, 5, 1000).astype(np.float32))
    level = exact_level(value)
    assert (np.diff(level) >= 0).all()
    assert 0 <= level.min() <= level.max() < EXACT_LEVELS
    assert np.unique(level).size == np.unique(value).size


def test_bins_lie_between_their_edges() -> None:
    resolution = 2.0**-26
    edges = bin_edges(resolution)
    assert len(edges) == BINS + 1
    assert np.allclose(edges[4::4] / edges[:-4:4], 2)
    value = np.random.default_rng(1).uniform(edges[0], edges[-1], 5000).astype(np.float32)
    number = log_bin(value, resolution)
    assert (edges[number] <= value).all()
    assert (value < edges[number + 1]).all()
    outside = np.array([edges[0] / 9, edges[-1] * 9], np.float32)
    assert log_bin(outside, resolution).tolist() == [0, BINS - 1]
