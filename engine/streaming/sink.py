"""The last stage: a member whose objects are durable becomes visible by its commit record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from ray.data.block import BlockAccessor
from ray.data.datasource import Datasink, WriteResult

from engine.streaming.members import Member
from storage.commits import MemberWriter


@dataclass(frozen=True)
class Encoded:
    """A member whose objects are written and not yet committed, and what making it took.

    seconds: wall time from tokens to durable objects. peak_memory_bytes: largest resident set of the
    encoder process.
    """

    member: Member
    writer: MemberWriter
    facts: dict[str, Any]
    n_tokens: int
    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Spent:
    """What committed members took together."""

    cells: int = 0
    tokens: int = 0
    encoder_seconds: float = 0.0
    peak_memory_bytes: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.cells + other.cells,
            self.tokens + other.tokens,
            self.encoder_seconds + other.encoder_seconds,
            max(self.peak_memory_bytes, other.peak_memory_bytes),
        )


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
    cells = encoded.member.stop - encoded.member.start
    return Spent(cells, encoded.n_tokens, encoded.seconds, encoded.peak_memory_bytes)
