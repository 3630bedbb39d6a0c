"""The order of cells: complete epochs, mixing, and the same cells wherever one starts to look."""

import numpy as np
import pytest

from engine.training.sampling import CellOrder, runs


@pytest.mark.parametrize("n_cells", [1, 5, 64, 700, 1000])
def test_every_epoch_is_a_permutation(n_cells: int) -> None:
    order = CellOrder(n_cells, seed=3, block=16, pool_blocks=4)
    for epoch in range(3):
        cells = order.cells(epoch * n_cells, (epoch + 1) * n_cells)
        assert np.array_equal(np.sort(cells), np.arange(n_cells))


def test_any_cut_gives_the_same_stream() -> None:
    order = CellOrder(333, seed=1, block=8, pool_blocks=5)
    whole = order.cells(0, 1000)
    pieces = [order.cells(start, start + 7) for start in range(0, 1000, 7)]
    assert np.array_equal(np.concatenate(pieces)[:1000], whole)
    assert np.array_equal(CellOrder(333, seed=1, block=8, pool_blocks=5).cells(617, 702), whole[617:702])


def test_seeds_and_epochs_differ() -> None:
    order = CellOrder(200, seed=1, block=8, pool_blocks=5)
    assert not np.array_equal(order.cells(0, 200), order.cells(200, 400))
    assert not np.array_equal(
        order.cells(0, 200), CellOrder(200, seed=2, block=8, pool_blocks=5).cells(0, 200)
    )


def test_a_batch_mixes_blocks_from_all_over_the_store() -> None:
    batch = CellOrder(100_000, seed=0).cells(0, 256)
    assert len(np.unique(batch // 64)) > 50
    assert batch.max() - batch.min() > 50_000


def test_runs_join_consecutive_cells() -> None:
    assert runs(np.array([3, 4, 5, 9, 11, 12])) == [(3, 6), (9, 10), (11, 13)]
    assert runs(np.empty(0, np.int64)) == []
