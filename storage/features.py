"""Feature tables: what each feature of a sparse autoencoder fires on, as parquet tables and JSON products.

    features/<range>.parquet     one row per feature, fired or not
    top_genes/<range>.parquet    rows (feature, rank): the genes a feature fires on most
    top_cells/<range>.parquet    rows (feature, rank): the cells it fires on most
    labels/<range>.parquet       rows (feature, label): enrichment of a label among the cells it fires on
    histograms/<range>.parquet   rows (feature, bin): how many tokens it fires on how strongly
    partners/<range>.parquet     rows (feature, rank): the features it fires together with
    genes.parquet                one row per gene of the vocabulary
    *.json                       products in formats that other tools read

A member is a range of features (`storage.ranged_tables`). Columns belong to whoever computes them
(`engine.interpret`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import pandas as pd

from storage.commits import Dataset, MemberPlan, Record, Snapshot
from storage.locations import Location
from storage.ranged_tables import RangedTables, parquet, read_ranges, write_tables

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
    return write_tables(dataset, key, TABLES, tables, facts, products)


def finish_tables(
    dataset: Dataset, genes: pd.DataFrame, products: Mapping[str, bytes], facts: Mapping[str, Any]
) -> Snapshot:
    """Write what is about all ranges, and finish. Raises InputError when a range is missing."""
    return dataset.finish({GENES: parquet(genes), **products}, facts)


class FeatureTables(RangedTables):
    """Reader of finished feature tables. Pickles by location; use `open`."""

    KIND = KIND
    TABLES = TABLES

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
        return self.frame(GENES)


def read_table(dataset: Dataset, name: str, ranges: Sequence[str]) -> pd.DataFrame:
    """The rows of some ranges of one table that need not be finished. Raises InputError: unknown table."""
    return read_ranges(dataset, TABLES, name, ranges)
