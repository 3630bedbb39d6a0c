"""Feature tables: what each feature of a sparse autoencoder fires on, as parquet tables and JSON products.

    features.parquet     one row per feature, fired or not
    top_genes.parquet    rows (feature, rank): the genes a feature fires on most
    top_cells.parquet    rows (feature, rank): the cells it fires on most
    labels.parquet       rows (feature, label): enrichment of a label among the cells it fires on
    *.json               products in formats that other tools read

One member holds them all: they come out of one merge, and a reader wants all or none. Columns belong to
whoever computes them (`engine.interpret`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pandas as pd

from storage.commits import Dataset, MemberPlan, Snapshot, open_snapshot
from storage.errors import InputError
from storage.locations import Location

KIND = "features"
TABLES = ("features", "top_genes", "top_cells", "labels")
_MEMBER = "tables"


def plan_tables(location: Location | str, lineage: Mapping[str, Any], *, overwrite: bool = False) -> Dataset:
    """Start (or take up) a feature dataset. Raises what `Dataset.plan` raises."""
    return Dataset.plan(
        location, kind=KIND, lineage=lineage, members=[MemberPlan(_MEMBER)], overwrite=overwrite
    )


def write_tables(
    dataset: Dataset,
    tables: Mapping[str, pd.DataFrame],
    products: Mapping[str, bytes] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Snapshot:
    """Commit the tables (those of `TABLES`, and more if wanted) and products (by file name), and finish.

    Row order is kept, the index is not. Raises ValueError when one of `TABLES` is missing.
    """
    missing = [name for name in TABLES if name not in tables]
    if missing:
        raise ValueError(
            f"feature tables without {', '.join(missing)}; an empty table has its columns and no rows"
        )
    writer = dataset.member(_MEMBER)
    for name, table in tables.items():
        writer.put(f"{name}.parquet", _parquet(table))
    for name, content in (products or {}).items():
        writer.put(name, content)
    writer.commit({f"n_{name}": len(tables[name]) for name in tables})
    return dataset.finish(facts=facts)


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

    def table(self, name: str) -> pd.DataFrame:
        """Any table by name, read anew. Raises InputError, DamagedDataset."""
        return pd.read_parquet(io.BytesIO(self.product(f"{name}.parquet")))

    def product(self, name: str) -> bytes:
        """Any object by file name, hash-checked. Raises InputError, DamagedDataset."""
        if name not in self.snapshot.all_objects:
            raise InputError(
                f"{self.snapshot.location}: no {name}; there are "
                f"{', '.join(sorted(self.snapshot.all_objects))}"
            )
        return self.snapshot.read(name)


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, compression="zstd", index=False)
    return buffer.getvalue()
