from itertools import pairwise

import numpy as np
import pytest

from engine.streaming.members import (
    TOKENS_PER_SHARD,
    cells_per_member,
    fixed_members,
    members_by_tokens,
    token_bound,
)


def ranges(members):
    return [(member.facts["start"], member.facts["stop"]) for member in members]


@pytest.mark.parametrize(
    ("n_cells", "expected"), [(1, 256), (2_638, 256), (10_000, 625), (65_536, 4096), (10**8, 4096)]
)
def test_small_stores_are_cut_finer_so_that_every_actor_has_work(n_cells, expected):
    assert cells_per_member(n_cells) == expected


def test_fixed_members_cover_every_cell_once():
    members = fixed_members(1000, 256)
    assert ranges(members) == [(0, 256), (256, 512), (512, 768), (768, 1000)]
    assert [member.key for member in members] == ["000000", "000001", "000002", "000003"]


def test_bound_counts_what_is_kept():
    nnz = np.array([10, 500, 3000], dtype=np.int32)
    assert token_bound(nnz, max_tokens=1000, tokens_per_cell=None, n_special=2).tolist() == [12, 502, 1002]
    assert token_bound(nnz, max_tokens=None, tokens_per_cell=64, n_special=0).tolist() == [10, 64, 64]


def test_members_by_tokens_fill_the_budget_and_never_exceed_it():
    bound = np.random.default_rng(0).integers(0, 2000, 5000)
    members = members_by_tokens(bound)
    cuts = ranges(members)
    assert cuts[0][0] == 0
    assert cuts[-1][1] == len(bound)
    assert all(before[1] == after[0] for before, after in pairwise(cuts))
    sizes = [int(bound[start:stop].sum()) for start, stop in cuts]
    assert max(sizes) <= TOKENS_PER_SHARD
    # One more cell would not have fitted.
    assert all(bound[start : stop + 1].sum() > TOKENS_PER_SHARD for start, stop in cuts[:-1])


def test_a_cell_larger_than_a_shard_is_a_member_by_itself():
    assert ranges(members_by_tokens(np.array([3, 100, 3, 3]), 10)) == [(0, 1), (1, 2), (2, 4)]


def test_empty_cells_ride_along():
    assert ranges(members_by_tokens(np.array([0, 0, 0]), 10)) == [(0, 3)]
    assert ranges(members_by_tokens(np.array([10, 0, 0, 1]), 10)) == [(0, 3), (3, 4)]
