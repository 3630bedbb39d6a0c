"""Enrichment of features: which terms of which databases their genes are in, beside what chance would find.

    terms/<range>.parquet      rows (feature, source, rank): terms of a feature, significant or among its best
    features/<range>.parquet   one row per feature: label, best term, evidence groups, network coherence
    edges/<range>.parquet      rows (feature, gene_a, gene_b): network edges among a feature's genes
    catalogue.parquet          one row per term tested: source, group, name, genes in the background
    rates.parquet              one row per subject (the features, a baseline) and source: what was found, and
                               what chance finds
    background.parquet         one row per gene that could have entered a list
    ranked.parquet             where asked for: pre-ranked GSEA of some features
    sources.json               licences and releases
    report.json, report.md     what all of it comes to
    feature_validations.json, validation_summary.csv     in the schema of sae-genomics

A member is a range of features, as in the feature tables it was made from. Columns belong to whoever computes
them (`engine.interpret.enrichment`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import pandas as pd

from storage.commits import Dataset, MemberPlan, Record, Snapshot, open_snapshot
from storage.errors import InputError
from storage.features import parquet
from storage.locations import Location

KIND = "enrichment"
TABLES = ("terms", "features", "edges")
CATALOGUE, RATES, BACKGROUND = "catalogue.parquet", "rates.parquet", "background.parquet"
RANKED = "ranked.parquet"
REPORT, SOURCES = "report.json", "sources.json"


def plan_enrichment(
    location: Location | str,
    lineage: Mapping[str, Any],
    ranges: Mapping[str, tuple[int, int]],
    *,
    overwrite: bool = False,
) -> Dataset:
    """Start (or take up) a dataset; `ranges`: key -> [first, stop) feature. Raises what `Dataset.plan`
    raises."""
    members = [MemberPlan(key, {"first": first, "stop": stop}) for key, (first, stop) in ranges.items()]
    return Dataset.plan(location, kind=KIND, lineage=lineage, members=members, overwrite=overwrite)


def write_range(dataset: Dataset, key: str, tables: Mapping[str, pd.DataFrame]) -> Record:
    """Commit the tables of one range (those of `TABLES`); row order is kept, the index is not."""
    writer = dataset.member(key)
    for name in TABLES:
        writer.put(f"{name}/{key}.parquet", parquet(tables[name]))
    return writer.commit({f"n_{name}": len(tables[name]) for name in TABLES})


class EnrichmentTables:
    """Reader of a finished enrichment. Pickles by location; use `open`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.lineage = snapshot.lineage
        self.dataset_id = snapshot.dataset_id
        self.facts = snapshot.facts

    @classmethod
    def open(cls, path: Location | str) -> EnrichmentTables:
        """Raises InputError when no finished enrichment is there, DamagedDataset when parts are missing."""
        snapshot = open_snapshot(Location.of(path), KIND)
        snapshot.check_sizes()
        return cls(snapshot)

    def __reduce__(self) -> tuple[Any, ...]:
        return EnrichmentTables, (self.snapshot,)

    @property
    def ranges(self) -> list[str]:
        """Keys of the ranges of features, ascending."""
        return [record.key for record in self.snapshot.members]

    def table(self, name: str, ranges: Sequence[str] | None = None) -> pd.DataFrame:
        """One of `TABLES`, read anew: all of it, or some ranges. Raises InputError, DamagedDataset."""
        if name not in TABLES:
            raise InputError(f"{self.snapshot.location}: no table {name}; there are {', '.join(TABLES)}")
        keys = self.ranges if ranges is None else ranges
        parts = [self._parquet(f"{name}/{key}.parquet") for key in keys]
        # An empty part would decide the types of columns it says nothing about.
        filled = [part for part in parts if len(part)] or parts[:1]
        return pd.concat(filled, ignore_index=True)

    @cached_property
    def features(self) -> pd.DataFrame:
        return self.table("features")

    @cached_property
    def catalogue(self) -> pd.DataFrame:
        return self._parquet(CATALOGUE)

    @cached_property
    def rates(self) -> pd.DataFrame:
        return self._parquet(RATES)

    @cached_property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.snapshot.read(REPORT))
        return found

    @cached_property
    def sources(self) -> list[dict[str, Any]]:
        """Of each source: source, title, release, licence, licence_url, redistribute, attribution."""
        found: list[dict[str, Any]] = json.loads(self.snapshot.read(SOURCES))
        return found

    def _parquet(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(io.BytesIO(self.snapshot.read(name)))
