"""Several shards of an activation cache in memory, to be shuffled together.

Each object is read into its place with one request and never copied: the activations of all of them lie in
one buffer at multiples of their row size, so that a batch is one gather over it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from storage.activations.shards import StoredActivations, decode_shard, header_bytes
from storage.activations.token_order import TokenOrder
from storage.commits import Snapshot


@dataclass(frozen=True)
class TokenPool:
    """Tokens of some shards, one shard after the other.

    memory: the objects, as rows of activations (what lies between them are their headers and columns).
    row_T: row of each token in it. beside: all else, by token.
    """

    memory: npt.NDArray[np.uint8]
    row_T: npt.NDArray[np.int64]
    beside: StoredActivations

    @classmethod
    def read(cls, snapshot: Snapshot, names: Sequence[str], row_bytes: int) -> TokenPool:
        """The given objects, hash-checked. Raises DamagedDataset, ValueError or KeyError."""
        sizes = [snapshot.all_objects[name].size for name in names]
        memory = np.empty(-(-sum(size + row_bytes for size in sizes) // row_bytes) * row_bytes, np.uint8)
        end, rows, parts = 0, [], []
        for name, size in zip(names, sizes, strict=True):
            header = header_bytes(partial(_read_range, snapshot, name))
            first_row = -(-(end + header) // row_bytes)
            start, end = first_row * row_bytes - header, first_row * row_bytes - header + size
            snapshot.read_into(name, memory[start:end])
            stored = decode_shard(memory[start:end])[0]
            rows.append(first_row + np.arange(len(stored.rows)))
            parts.append(stored._replace(rows=stored.rows[:, :0]))
        return cls(memory.reshape(-1, row_bytes), np.concatenate(rows), joined(parts))

    def select(self, rows: npt.NDArray[np.int64]) -> StoredActivations:
        """The given tokens, in the order given."""
        return self.beside.select(rows)._replace(rows=self.memory.take(self.row_T[rows], axis=0))


class PoolsAhead:
    """The pools of an order, one after the other; while one is used the next is read by `reader`."""

    def __init__(
        self, read: Callable[[int, int], TokenPool], order: TokenOrder, reader: ThreadPoolExecutor
    ) -> None:
        self._read, self._order, self._reader = read, order, reader
        self._place: tuple[int, int] | None = None
        self._pool: TokenPool | None = None
        self._ahead: dict[tuple[int, int], Future[TokenPool]] = {}

    def at(self, number: int, pool: int) -> TokenPool:
        """Pool `pool` of pass `number`."""
        if self._pool is None or self._place != (number, pool):
            self._pool = None  # let go of it before another is read
            wanted = self._ahead.pop((number, pool), None) or self._reader.submit(self._read, number, pool)
            self._place, self._pool = (number, pool), wanted.result()
            following = (number, pool + 1) if pool + 1 < self._order.n_pools else (number + 1, 0)
            self._ahead = {following: self._reader.submit(self._read, *following)}
        return self._pool


def _read_range(snapshot: Snapshot, name: str, start: int, stop: int) -> bytes:
    return snapshot.read_ranges(name, [(start, stop)])[0]


def joined(parts: Sequence[StoredActivations]) -> StoredActivations:
    """All tokens of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    rows, precisions, *columns = zip(*parts, strict=True)
    return StoredActivations(np.concatenate(rows), precisions[0], *map(np.concatenate, columns))
