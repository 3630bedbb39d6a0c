from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.streaming.packing import pack, token_positions, token_slots


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 120))
def test_every_cell_with_tokens_is_in_exactly_one_batch(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    batches = pack(lengths, budget)
    packed = np.concatenate(batches) if batches else np.zeros(0, np.int64)
    assert sorted(packed.tolist()) == np.flatnonzero(lengths).tolist()
    for cells in batches:
        assert lengths[cells].sum() <= budget or len(cells) == 1


def test_each_cell_joins_the_fullest_batch_that_has_room():
    lengths = np.array([5, 100, 60, 40, 90, 35])
    # 100 | 90 | 60+40 | 35 fits none of them; 5 best fills the second
    assert [cells.tolist() for cells in pack(lengths, 100)] == [[1], [4, 0], [2, 3], [5]]


def test_ties_keep_the_order_of_the_cells():
    assert [cells.tolist() for cells in pack(np.array([2, 2, 2, 2]), 4)] == [[0, 1], [2, 3]]


def test_a_cell_beyond_the_budget_is_alone():
    assert [cells.tolist() for cells in pack(np.array([3, 12, 3]), 10)] == [[1], [0, 2]]


@pytest.mark.parametrize(
    "name", ["pbmc3k.h5ad", "pbmc4k_soupx.h5ad", "lung_adenocarcinoma_lines_cellbench.h5ad"]
)
def test_batches_of_real_cells_fill_their_budget(shared: Path, name: str):
    with h5py.File(shared / "data" / name) as file:
        lengths = np.minimum(np.diff(file["X/indptr"][:]) + 1, 2048)
    members = [lengths[start : start + 512] for start in range(0, len(lengths) - 512, 512)]
    assert min(member.sum() / token_slots(pack(member, 8192), member, 8192) for member in members) >= 0.97
    assert lengths.sum() / token_slots(pack(lengths, 8192), lengths, 8192) >= 0.98


def test_token_positions_name_the_tokens_of_the_chosen_cells_in_order():
    offsets = np.array([0, 2, 2, 5, 6])
    assert token_positions(offsets, np.array([2, 0])).tolist() == [2, 3, 4, 0, 1]
    assert token_positions(offsets, np.array([1])).tolist() == []
