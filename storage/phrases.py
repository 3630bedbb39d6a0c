"""Phrase bank: texts as vectors of a joint model, committed once and asked often.

    vectors/<key>.f32     member: `[N, U]` float32, unit length, phrases in the order of the table
    phrases.arrow         root: library, term and text (what was embedded) of every phrase, Arrow IPC

Shape legend: P phrases, U width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.commits import Dataset, Snapshot, open_snapshot
from storage.index.cell_tables import from_buffer, to_bytes
from storage.index.segments import mapped
from storage.locations import Location

KIND = "phrases"
TABLE = "phrases.arrow"
LIBRARY, TERM, TEXT = "library", "term", "text"

Float32 = npt.NDArray[np.float32]


def vectors_name(key: str) -> str:
    return f"vectors/{key}.f32"


def finish_phrases(dataset: Dataset, table: pa.Table, facts: Mapping[str, Any]) -> Snapshot:
    """Close a bank all of whose members are committed. table: library, term, text; one row a phrase."""
    return dataset.finish({TABLE: to_bytes(table)}, {"n_phrases": len(table), **facts})


class PhraseBank:
    """Reader of a finished bank; use `open`.

    model: fingerprint of the joint model that embedded it. temperature: that model's. nearest: cosine that
    all but one in a hundred of the phrases have with the phrase nearest to them, None for a bank of too few.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.n_phrases: int = snapshot.facts["n_phrases"]
        self.width: int = snapshot.facts["width"]
        self.model: str = snapshot.lineage["model"]
        self.template: str | None = snapshot.lineage["template"]
        self.temperature: float = snapshot.facts["temperature"]
        self.nearest: float | None = snapshot.facts["nearest"]

    @classmethod
    def open(cls, path: Location | str) -> PhraseBank:
        """Raises InputError when no finished bank is there, DamagedDataset when parts are missing."""
        snapshot = open_snapshot(Location.of(path), KIND)
        snapshot.check_sizes()
        return cls(snapshot)

    def __len__(self) -> int:
        return self.n_phrases

    @cached_property
    def table(self) -> pa.Table:
        """library, term and text of every phrase."""
        return from_buffer(mapped(self.snapshot, TABLE))

    @cached_property
    def vectors(self) -> Float32:
        """`[P, U]`"""
        parts = [mapped(self.snapshot, vectors_name(record.key)) for record in self.snapshot.members]
        vectors: Float32 = np.concatenate(parts).view("<f4").reshape(-1, self.width)
        return vectors

    def __reduce__(self) -> tuple[Any, ...]:
        return PhraseBank, (self.snapshot,)
