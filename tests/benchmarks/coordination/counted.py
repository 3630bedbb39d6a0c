"""A location that counts what it is asked: on an object store each of these is a request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from storage.durable_files import Buffer, Content
from storage.locations import Location

# Of all counted locations of this process, by kind.
REQUESTS: Counter[str] = Counter()
NAMES_OF_A_LISTING = 1000  # S3 answers with so many


@dataclass(frozen=True)
class CountedLocation(Location):
    """As `Location`; a listing counts once for every thousand names."""

    def read(self, name: str = "") -> bytes:
        REQUESTS["read"] += 1
        return super().read(name)

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        REQUESTS["read"] += len(ranges)
        return super().read_ranges(name, ranges)

    def put(self, name: str, content: Content) -> None:
        REQUESTS["write"] += 1
        super().put(name, content)

    def create(self, name: str, content: Buffer) -> bool:
        REQUESTS["write"] += 1
        return super().create(name, content)

    def exists(self, name: str = "") -> bool:
        REQUESTS["look"] += 1
        return super().exists(name)

    def size(self, name: str) -> int:
        REQUESTS["look"] += 1
        return super().size(name)

    def list(self, prefix: str = "") -> dict[str, int]:
        found = super().list(prefix)
        REQUESTS["list"] += max(1, -(-len(found) // NAMES_OF_A_LISTING))
        return found
