"""Tables about features, in ranges of features: `<table>/<range>.parquet`, and objects about all of them.

Feature tables and enrichment are both of this kind. A member is a range, so nobody needs to hold the tables
of a million features at once; `pandas.read_parquet(OUTPUT/<table>)` reads all ranges of one.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import pandas as pd

from storage.commits import Dataset, Record, Snapshot, open_snapshot
from storage.errors import InputError
from storage.locations import Location


class RangedTables:
    """Reader of a finished dataset of such tables. Pickles by location; use `open`."""

    KIND: ClassVar[str]
    TABLES: ClassVar[tuple[str, ...]]

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.lineage = snapshot.lineage
        self.dataset_id = snapshot.dataset_id
        self.facts = snapshot.facts

    @classmethod
    def open(cls, path: Location | str) -> Self:
        """Raises InputError when no finished dataset is there, DamagedDataset when parts are missing."""
        snapshot = open_snapshot(Location.of(path), cls.KIND)
        snapshot.check_sizes()
        return cls(snapshot)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.snapshot,)

    @property
    def ranges(self) -> list[str]:
        """Keys of the ranges of features, ascending."""
        return [record.key for record in self.snapshot.members]

    def table(self, name: str, ranges: Sequence[str] | None = None) -> pd.DataFrame:
        """One of `TABLES`, read anew: all of it, or some ranges. Raises InputError, DamagedDataset."""
        return read_ranges(self.snapshot, self.TABLES, name, self.ranges if ranges is None else ranges)

    def product(self, name: str) -> bytes:
        """Any object by file name, hash-checked. Raises InputError, DamagedDataset."""
        if name not in self.snapshot.all_objects:
            raise InputError(
                f"{self.snapshot.location}: no {name}; there are "
                f"{', '.join(sorted(self.snapshot.all_objects))}"
            )
        return self.snapshot.read(name)

    def frame(self, name: str) -> pd.DataFrame:
        """A table about all features, by file name. Raises InputError, DamagedDataset."""
        return pd.read_parquet(io.BytesIO(self.product(name)))


def read_ranges(
    dataset: Dataset | Snapshot, known: Sequence[str], name: str, ranges: Sequence[str]
) -> pd.DataFrame:
    """The rows of some ranges of one table, finished or not. Raises InputError for one not in `known`."""
    if name not in known:
        raise InputError(f"{dataset.location}: no table {name}; there are {', '.join(known)}")
    read = dataset.read if isinstance(dataset, Snapshot) else dataset.location.read
    parts = [pd.read_parquet(io.BytesIO(read(f"{name}/{key}.parquet"))) for key in ranges]
    # An empty part would decide the types of columns it says nothing about.
    filled = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(filled, ignore_index=True)


def write_tables(
    dataset: Dataset,
    key: str,
    known: Sequence[str],
    tables: Mapping[str, pd.DataFrame],
    facts: Mapping[str, Any] | None = None,
    products: Mapping[str, bytes] | None = None,
) -> Record:
    """Commit the tables of one range (all that are `known`) and its products (by file name).

    Row order is kept, the index is not. Raises ValueError when a table is missing.
    """
    missing = [name for name in known if name not in tables]
    if missing:
        raise ValueError(f"tables without {', '.join(missing)}; an empty table has its columns and no rows")
    writer = dataset.member(key)
    for name in known:
        writer.put(f"{name}/{key}.parquet", parquet(tables[name]))
    for name, content in (products or {}).items():
        writer.put(name, content)
    return writer.commit({f"n_{name}": len(tables[name]) for name in known} | dict(facts or {}))


def parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, compression="zstd", index=False)
    return buffer.getvalue()
