"""The last stage: a member whose objects are durable becomes visible by its commit record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from ray.data.block import BlockAccessor
from ray.data.datasource import Datasink, WriteResult

from engine.streaming.members import Member
from engine.streaming.metrics import Spent
from storage.commits import MemberWriter


@dataclass(frozen=True)
class Encoded:
    """A member whose objects are written and not yet committed, and what making it took."""

    member: Member
    writer: MemberWriter
    facts: dict[str, Any]
    spent: Spent


class CommitSink(Datasink[Spent]):
    """Commits every member that reaches it. A row is `encoded`: an `Encoded`, or nothing when it was
    left to others.
    """

    def __init__(self) -> None:
        self.spent = Spent()

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> Spent:
        spent = Spent()
        for block in blocks:
            for row in BlockAccessor.for_block(block).iter_rows(public_row_format=True):
                spent += commit(row["encoded"])
        return spent

    def on_write_complete(self, write_result: WriteResult[Spent]) -> None:
        for spent in write_result.write_returns:
            self.spent += spent


def commit(encoded: Encoded) -> Spent:
    """Create the member's record. Raises DamagedDataset when another worker committed other bytes."""
    encoded.writer.commit(encoded.facts)
    return encoded.spent
