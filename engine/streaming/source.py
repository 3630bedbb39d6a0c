"""Cells out of the store as a Ray Data source: one read task and one row per member.

A row carries the counts of its cells as three lists (the arrays of a CSR matrix), so a member is never
split over rows or batches however Ray cuts blocks, and travels without a copy from the reader to the
tokeniser.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from engine.streaming.members import Member
from storage.cells import CellStore

# int32 gene column and uint16..uint32 count of one non-zero entry; int64 row pointer of a cell.
_BYTES_PER_ENTRY, _BYTES_PER_CELL = 8, 8


class CellSource(Datasource):
    """The given members of a store, each a row `member, start, stop, indptr, indices, counts`."""

    def __init__(self, store: CellStore, members: Sequence[Member]) -> None:
        super().__init__()
        self.store, self.pending = store, list(members)
        before = np.concatenate([[0], np.cumsum(store.nnz_per_cell, dtype=np.int64)])
        self.sizes = [
            int(before[member.stop] - before[member.start]) * _BYTES_PER_ENTRY
            + (member.stop - member.start) * _BYTES_PER_CELL
            for member in self.pending
        ]

    def estimate_inmemory_data_size(self) -> int:
        return sum(self.sizes)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task per member whatever `parallelism` says: members are what is retried and committed."""
        return [
            ReadTask(
                partial(_rows, self.store, member),
                BlockMetadata(num_rows=1, size_bytes=size, input_files=None, exec_stats=None),
                per_task_row_limit=per_task_row_limit,
            )
            for member, size in zip(self.pending, self.sizes, strict=True)
        ]


def _rows(store: CellStore, member: Member) -> Iterator[pa.Table]:
    yield read_member(store, member)


def read_member(store: CellStore, member: Member) -> pa.Table:
    """The member's cells as a table of one row."""
    block = store.read(member.start, member.stop)
    return one_row(member, {"indptr": block.indptr, "indices": block.indices, "counts": block.counts})


def one_row(member: Member, arrays: Mapping[str, np.ndarray] | None = None) -> pa.Table:
    """A table of one row: the member, and each array as one list value (no copy)."""
    columns: dict[str, Any] = {
        "member": pa.array([member.key]),
        "start": pa.array([member.start]),
        "stop": pa.array([member.stop]),
    }
    for name, array in (arrays or {}).items():
        columns[name] = pa.LargeListArray.from_arrays(pa.array([0, len(array)], pa.int64()), pa.array(array))
    return pa.table(columns)


def member_of(row: pa.Table) -> Member:
    """The member of a table of one row. Raises ValueError for any other table: a batch is one member."""
    if len(row) != 1:
        raise ValueError(f"expected one member per batch, found {len(row)} rows")
    return Member(row["member"][0].as_py(), row["start"][0].as_py(), row["stop"][0].as_py())


def arrays_of(row: pa.Table) -> dict[str, np.ndarray]:
    """The arrays of a table of one row, as views into it."""
    return {
        name: row[name].chunk(0).flatten().to_numpy(zero_copy_only=True)
        for name in row.column_names
        if pa.types.is_large_list(row[name].type)
    }
