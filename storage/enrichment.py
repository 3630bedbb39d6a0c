"""Enrichment of features: which terms of which databases their genes are in, beside what chance would find.

    terms/<range>.parquet      rows (feature, source, rank): terms of a feature, significant or among its best
    features/<range>.parquet   one row per feature: label, best term, evidence groups, network coherence
    edges/<range>.parquet      rows (feature, gene_a, gene_b): network edges among a feature's genes
    catalogue.parquet          one row per term tested: source, group, name, genes in the background
    hierarchy.parquet          terms tested and all above them, with their parents, where a source says them
    rates.parquet              one row per subject (the features, a baseline) and source: what was found, and
                               what chance finds
    background.parquet         one row per gene that could have entered a list
    ranked.parquet             where asked for: pre-ranked GSEA of some features
    sources.json               licences and releases
    report.json, report.md     what all of it comes to
    feature_validations.json, validation_summary.csv     in the schema of sae-genomics

A member is a range of features (`storage.ranged_tables`), as in the feature tables it was made from. Columns
belong to whoever computes them (`engine.interpret.enrichment`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pandas as pd

from storage.commits import Dataset, MemberPlan, Record
from storage.locations import Location
from storage.ranged_tables import RangedTables, write_tables

KIND = "enrichment"
TABLES = ("terms", "features", "edges")
CATALOGUE, RATES, BACKGROUND = "catalogue.parquet", "rates.parquet", "background.parquet"
RANKED, HIERARCHY = "ranked.parquet", "hierarchy.parquet"
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
    """Commit the tables of one range (those of `TABLES`). Raises ValueError when one is missing."""
    return write_tables(dataset, key, TABLES, tables)


class EnrichmentTables(RangedTables):
    """Reader of a finished enrichment. Pickles by location; use `open`."""

    KIND = KIND
    TABLES = TABLES

    @cached_property
    def features(self) -> pd.DataFrame:
        return self.table("features")

    @cached_property
    def catalogue(self) -> pd.DataFrame:
        return self.frame(CATALOGUE)

    @cached_property
    def hierarchy(self) -> pd.DataFrame:
        """source, term_id, name, parents (ids of the same source)."""
        return self.frame(HIERARCHY)

    @cached_property
    def rates(self) -> pd.DataFrame:
        return self.frame(RATES)

    @cached_property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.product(REPORT))
        return found

    @cached_property
    def sources(self) -> list[dict[str, Any]]:
        """Of each source: source, title, release, licence, licence_url, redistribute, attribution."""
        found: list[dict[str, Any]] = json.loads(self.product(SOURCES))
        return found
