import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.streaming.packing import pack, token_positions


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 120))
def test_every_cell_with_tokens_is_in_exactly_one_batch(lengths, budget):
    lengths = np.array(lengths, dtype=np.int64)
    batches = pack(lengths, budget)
    packed = np.concatenate(batches) if batches else np.zeros(0, np.int64)
    assert sorted(packed.tolist()) == np.flatnonzero(lengths).tolist()
    for cells in batches:
        assert lengths[cells].sum() <= budget or len(cells) == 1


def test_like_lengths_meet():
    lengths = np.array([5, 100, 6, 99, 5, 101])
    batches = pack(lengths, 300)
    assert [cells.tolist() for cells in batches] == [[5, 1, 3], [2, 0, 4]]


def test_ties_keep_the_order_of_the_cells():
    assert pack(np.array([2, 2, 2, 2]), 4)[0].tolist() == [0, 1]


def test_token_positions_name_the_tokens_of_the_chosen_cells_in_order():
    offsets = np.array([0, 2, 2, 5, 6])
    assert token_positions(offsets, np.array([2, 0])).tolist() == [2, 3, 4, 0, 1]
    assert token_positions(offsets, np.array([1])).tolist() == []
