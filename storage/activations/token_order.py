"""In which order the tokens of an activation cache are read: shuffled, and found at any position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


class TokenOrder:
    """The endless order of tokens, a function of shard sizes, seed and pool size.

    A pass permutes the shards, takes `pool_shards` of them at a time and permutes the tokens of each such
    pool. Position p is token p % n_tokens of pass p // n_tokens. Nothing but the pool's own permutation has
    to be computed to find it, so resuming anywhere costs what starting does.
    """

    def __init__(self, tokens_per_shard: Sequence[int], seed: int, pool_shards: int) -> None:
        self.tokens_per_shard = np.asarray(tokens_per_shard, dtype=np.int64)
        self.n_tokens = int(self.tokens_per_shard.sum())
        self.seed = seed
        self.pool_shards = pool_shards
        # One pass and one pool are in use at a time, two at a border.
        self._pass = lru_cache(maxsize=2)(self._draw_pass)
        self._permutation = lru_cache(maxsize=2)(self._draw_permutation)

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, int, Int64]]:
        """Positions `[start, stop)` as pieces (pass, pool, rows of that pool); a pool's rows are those of its
        `shards` one after the other."""
        while start < stop:
            number, offset = divmod(start, self.n_tokens)
            _, starts = self._pass(number)
            pool = int(np.searchsorted(starts, offset, side="right")) - 1
            first = offset - int(starts[pool])
            rows = self._permutation(number, pool)[first : first + stop - start]
            yield number, pool, rows
            start += len(rows)

    @property
    def n_pools(self) -> int:
        """Pools of a pass."""
        return -(-len(self.tokens_per_shard) // self.pool_shards)

    def shards(self, number: int, pool: int) -> list[int]:
        """The shards of one pool of one pass, in the order in which its rows count."""
        order, _ = self._pass(number)
        return [int(shard) for shard in order[pool * self.pool_shards : (pool + 1) * self.pool_shards]]

    def _draw_pass(self, number: int) -> tuple[Int64, Int64]:
        """(order of the shards, position in the pass at which each pool begins)."""
        order = np.random.default_rng([self.seed, number]).permutation(len(self.tokens_per_shard))
        pools = np.arange(0, len(order), self.pool_shards)
        sizes = np.add.reduceat(self.tokens_per_shard[order], pools)
        return order, np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def _draw_permutation(self, number: int, pool: int) -> Int64:
        size = int(self.tokens_per_shard[self.shards(number, pool)].sum())
        return np.random.default_rng([self.seed, number, pool]).permutation(size)
