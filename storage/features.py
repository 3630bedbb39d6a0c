"""Feature tables: what each feature of a sparse autoencoder fires on, as parquet tables and JSON products.

    features/<range>.parquet     one row per feature, fired or not
    top_genes/<range>.parquet    rows (feature, rank): the genes a feature fires on most
    top_cells/<range>.parquet    rows (feature, rank): the cells it fires on most
    labels/<range>.parquet       rows (feature, label): enrichment of a label among the cells it fires on
    histograms/<range>.parquet   rows (feature, bin): how many tokens it fires on how strongly
    partners/<range>.parquet     rows (feature, rank): the features it fires together with
    genes.parquet                one row per gene of the vocabulary
    *.json                       products in formats that other tools read

A member is a range of features, so nobody needs to hold the tables of a million features at once;
`pandas.read_parquet(OUTPUT/features)` reads all ranges of one table. Columns belong to whoever computes them
(`engine.interpret`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import pandas as pd

from storage.commits import Dataset, MemberPlan, Record, Snapshot, open_snapshot
from storage.errors import InputError
from storage.locations import Location

KIND = "features"
TABLES = ("features", "top_genes", "top_cells", "labels", "histograms", "partners")
GENES = "genes.parquet"


def plan_tables(
    location: Location | str, lineage: Mapping[str, Any], edges: Sequence[int], *, overwrite: bool = False
) -> Dataset:
    """Start (or take up) a feature dataset; ranges of features lie between `edges`. Raises what
    `Dataset.plan` raises.
    """
    members = [
        MemberPlan(f"{number:05d}", {"first": first, "stop": stop})
        for number, (first, stop) in enumerate(pairwise(edges))
    ]
    return Dataset.plan(location, kind=KIND, lineage=lineage, members=members, overwrite=overwrite)


def write_range(
    dataset: Dataset,
    key: str,
    tables: Mapping[str, pd.DataFrame],
    facts: Mapping[str, Any] | None = None,
    products: Mapping[str, bytes] | None = None,
) -> Record:
    """Commit the tables of one range (those of `TABLES`) and its products (by file name).

    Row order is kept, the index is not. Raises ValueError when a table is missing.
    """
    missing = [name for name in TABLES if name not in tables]
    if missing:
        raise ValueError(
            f"feature tables without {', '.join(missing)}; an empty table has its columns and no rows"
        )
    writer = dataset.member(key)
    for name in TABLES:
        writer.put(f"{name}/{key}.parquet", parquet(tables[name]))
    for name, content in (products or {}).items():
        writer.put(name, content)
    return writer.commit({f"n_{name}": len(tables[name]) for name in TABLES} | dict(facts or {}))


def finish_tables(
    dataset: Dataset, genes: pd.DataFrame, products: Mapping[str, bytes], facts: Mapping[str, Any]
) -> Snapshot:
    """Write what is about all ranges, and finish. Raises InputError when a range is missing."""
    return dataset.finish({GENES: parquet(genes), **products}, facts)


class FeatureTables:
    """Reader of finished feature tables. Pickles by location; use `open`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.lineage = snapshot.lineage
        self.dataset_id = snapshot.dataset_id
        self.facts = snapshot.facts

    @classmethod
    def open(cls, path: Location | str) -> FeatureTables:
        """Raises InputError when no finished tables are there, DamagedDataset when parts are missing."""
        snapshot = open_snapshot(Location.of(path), KIND)
        snapshot.check_sizes()
        return cls(snapshot)

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureTables, (self.snapshot,)

    @cached_property
    def features(self) -> pd.DataFrame:
        return self.table("features")

    @cached_property
    def top_genes(self) -> pd.DataFrame:
        return self.table("top_genes")

    @cached_property
    def top_cells(self) -> pd.DataFrame:
        return self.table("top_cells")

    @cached_property
    def labels(self) -> pd.DataFrame:
        return self.table("labels")

    @cached_property
    def genes(self) -> pd.DataFrame:
        """One row per token id: gene_id, gene_name, tokens seen, expression."""
        return pd.read_parquet(io.BytesIO(self.product(GENES)))

    @property
    def ranges(self) -> list[str]:
        """Keys of the ranges of features, ascending."""
        return [record.key for record in self.snapshot.members]

    def table(self, name: str, ranges: Sequence[str] | None = None) -> pd.DataFrame:
        """One of `TABLES`, read anew: all of it, or some ranges. Raises InputError, DamagedDataset."""
        return read_table(self.snapshot, name, self.ranges if ranges is None else ranges)

    def product(self, name: str) -> bytes:
        """Any object by file name, hash-checked. Raises InputError, DamagedDataset."""
        if name not in self.snapshot.all_objects:
            raise InputError(
                f"{self.snapshot.location}: no {name}; there are "
                f"{', '.join(sorted(self.snapshot.all_objects))}"
            )
        return self.snapshot.read(name)


def read_table(dataset: Dataset | Snapshot, name: str, ranges: Sequence[str]) -> pd.DataFrame:
    """The rows of some ranges of one table, finished or not. Raises InputError for an unknown table."""
    if name not in TABLES:
        raise InputError(f"{dataset.location}: no table {name}; there are {', '.join(TABLES)}")
    location = dataset.location
    read = dataset.read if isinstance(dataset, Snapshot) else location.read
    parts = [pd.read_parquet(io.BytesIO(read(f"{name}/{key}.parquet"))) for key in ranges]
    # An empty part would decide the types of columns it says nothing about.
    filled = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(filled, ignore_index=True)


def parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, compression="zstd", index=False)
    return buffer.getvalue()
