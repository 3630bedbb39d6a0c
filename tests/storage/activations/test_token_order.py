"""Token order: every token once a pass, the same from any start, a new order each pass."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.activations.token_order import TokenOrder

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)


def tokens(order: TokenOrder, start: int, stop: int) -> list[tuple[int, int]]:
    """(shard, row in the shard) of each position."""
    found = []
    for number, pool, rows in order.rows(start, stop):
        shards = order.shards(number, pool)
        owner = np.repeat(shards, order.tokens_per_shard[shards])
        row = np.concatenate([np.arange(order.tokens_per_shard[shard]) for shard in shards])
        found += list(zip(owner[rows].tolist(), row[rows].tolist(), strict=True))
    return found


@settings(deadline=None)
@given(SIZES, st.integers(0, 5), st.integers(1, 4))
def test_each_pass_holds_every_token_once(sizes: list[int], seed: int, pool_shards: int) -> None:
    order = TokenOrder(sizes, seed, pool_shards)
    everything = sorted((shard, row) for shard, size in enumerate(sizes) for row in range(size))
    for number in range(3):
        assert sorted(tokens(order, number * order.n_tokens, (number + 1) * order.n_tokens)) == everything


@settings(deadline=None)
@given(SIZES, st.integers(1, 4), st.lists(st.integers(0, 60), min_size=2, max_size=5).map(sorted))
def test_it_can_be_entered_anywhere(sizes: list[int], pool_shards: int, cuts: list[int]) -> None:
    whole = tokens(TokenOrder(sizes, 1, pool_shards), 0, cuts[-1])
    for start, stop in pairwise(cuts):
        assert tokens(TokenOrder(sizes, 1, pool_shards), start, stop) == whole[start:stop]


def test_seeds_and_passes_differ() -> None:
    orders = [TokenOrder([50, 50], seed, 2) for seed in (0, 1)]
    passes = [tokens(order, start, start + 100) for order in orders for start in (0, 100)]
    assert all(one != other for number, one in enumerate(passes) for other in passes[:number])


def test_a_pool_mixes_its_shards() -> None:
    first = [shard for shard, _ in tokens(TokenOrder([100] * 8, 0, 4), 0, 40)]
    assert len(set(first)) == 4
