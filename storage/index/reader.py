"""Reading a vector index: its manifest at once, each segment when it is asked for."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from storage.commits import Snapshot, open_snapshot
from storage.errors import InputError
from storage.index.segments import IVF, SegmentArrays, mapped, object_name, open_segment
from storage.index.short_codes import ShortCodes
from storage.locations import Location

KIND = "index"
TRANSFORM_KEY, TRANSFORM = "transform", "transform/short.safetensors"


class Segment:
    """Some rows of an index. `n_rows` counts deleted ones, `n_live` does not."""

    def __init__(self, snapshot: Snapshot, key: str, facts: Mapping[str, Any]) -> None:
        self.key = key
        self.n_rows: int = facts["n_rows"]
        self.span: tuple[int, int] = tuple(facts["ids"])
        self._snapshot = snapshot
        self._tombstones: Mapping[str, Any] | None = snapshot.facts["deleted"].get(key)

    @property
    def n_live(self) -> int:
        return self.n_rows - (self._tombstones["n_rows"] if self._tombstones else 0)

    @cached_property
    def arrays(self) -> SegmentArrays:
        facts = self._snapshot.facts
        return open_segment(self._snapshot, self.key, facts["width"], facts["short_width"])

    @cached_property
    def live(self) -> npt.NDArray[np.bool_] | None:
        """`[N]`: rows that are not deleted; None when all are there."""
        if self._tombstones is None:
            return None
        bits = mapped(self._snapshot, self._tombstones["object"])
        return ~np.unpackbits(bits, count=self.n_rows).view(np.bool_)

    @property
    def ivf_name(self) -> str | None:
        """Object with the segment's inverted lists, if it has them."""
        name = object_name(self.key, IVF)
        return name if name in self._snapshot.all_objects else None


class VectorIndex:
    """One version of an index. Later changes make other versions; this one stays what it is. Use `open`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.facts = snapshot.facts
        self.version = snapshot.version
        self.width: int = snapshot.facts["width"]
        self.segments = [
            Segment(snapshot, record.key, record.facts)
            for record in snapshot.members
            if record.key != TRANSFORM_KEY
        ]

    @classmethod
    def open(cls, path: Location | str, version: int | None = None) -> VectorIndex:
        """The newest (or the given) version: the manifest is read and sizes are compared, nothing more.

        Raises InputError when no index is there, DamagedDataset when parts are missing.
        """
        newest = open_snapshot(Location.of(path), KIND)
        if version is not None and not 1 <= version <= newest.version:
            raise InputError(f"{path}: no version {version}; there are 1 to {newest.version}")
        snapshot = (
            newest if version in (None, newest.version) else open_snapshot(newest.location, KIND, version)
        )
        snapshot.check_sizes()
        return cls(snapshot)

    def __reduce__(self) -> tuple[Any, ...]:
        return VectorIndex, (self.snapshot,)

    @property
    def n_cells(self) -> int:
        """Cells that can be found."""
        return sum(segment.n_live for segment in self.segments)

    @cached_property
    def codes(self) -> ShortCodes:
        return ShortCodes.from_bytes(self.snapshot.read(TRANSFORM))

    @cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """Cell id of every row, segment after segment, deleted ones included."""
        return np.concatenate([segment.arrays.ids for segment in self.segments])

    def annotations(self, ids: npt.NDArray[np.int64]) -> pd.DataFrame:
        """What is known of some cells, one row each in the order asked. Raises KeyError for an unknown id."""
        parts = []
        found: list[npt.NDArray[np.int64]] = []
        for segment in self.segments:
            first, stop = segment.span
            if not ((ids >= first) & (ids < stop)).any():
                continue
            rows = np.flatnonzero(np.isin(segment.arrays.ids, ids))
            parts.append(segment.arrays.obs.take(pa.array(rows)).to_pandas())
            found.append(segment.arrays.ids[rows])
        where = {int(cell): row for row, cell in enumerate(np.concatenate(found))} if found else {}
        missing = [int(cell) for cell in ids if int(cell) not in where]
        if missing:
            raise KeyError(f"{self.snapshot.location}: no cell {missing[0]} in version {self.version}")
        if not parts:
            return pd.DataFrame()
        together: pd.DataFrame = pd.concat(parts, ignore_index=True)
        return together.iloc[[where[int(cell)] for cell in ids]].reset_index(drop=True)

    def warm(self) -> int:
        """Read a byte of every page that a search reads, so that the first is not slow; bytes mapped."""
        mapped_bytes = 0
        for segment in self.segments:
            for array in (segment.arrays.vectors, segment.arrays.short, segment.arrays.ids):
                array.reshape(-1).view(np.uint8)[:: mmap.PAGESIZE].sum()
                mapped_bytes += array.nbytes
        return mapped_bytes
