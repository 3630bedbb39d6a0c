import numpy as np

from engine.streaming.draws import smallest_per_cell, token_draws


def test_a_draw_depends_on_seed_cell_position_and_stream_only():
    cell, position = np.repeat(np.arange(100), 50), np.tile(np.arange(50), 100)
    draws = token_draws(0, cell, position)
    shuffled = np.random.default_rng(0).permutation(len(cell))
    np.testing.assert_array_equal(token_draws(0, cell[shuffled], position[shuffled]), draws[shuffled])
    assert len(np.unique(draws)) == len(draws)
    assert not np.intersect1d(draws, token_draws(1, cell, position)).size
    assert not np.intersect1d(draws, token_draws(0, cell, position, stream=1)).size


def test_known_values():
    """Committed shards depend on these bits; they may never change."""
    draws = token_draws(7, np.array([0, 1]), np.array([0, 5]))
    assert draws.tolist() == [2614295980954670747, 4562026924733472915]


def test_draws_are_uniform():
    draws = token_draws(3, np.zeros(100_000, np.int64), np.arange(100_000)) / 2.0**64
    assert abs(draws.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.01
    counts, _ = np.histogram(draws, bins=16, range=(0, 1))
    assert counts.min() > 100_000 / 16 * 0.95


def test_smallest_per_cell_samples_without_replacement():
    cell = np.array([0, 0, 0, 2, 5, 5])
    draws = np.array([9, 1, 5, 7, 2, 3], dtype=np.uint64)
    assert smallest_per_cell(draws, cell, 2).tolist() == [False, True, True, True, True, True]
    assert smallest_per_cell(draws, cell, 1).tolist() == [False, True, False, True, True, False]
