"""Gene-term associations of public databases, normalised: what `databases` writes and `enrich` reads.

    associations/<source>.parquet   gene, term_id, source, evidence, score, raw_term, release
    terms/<source>.parquet          term_id, name, parents, group
    edges/<source>.parquet          gene_a, gene_b, score: networks only
    unmapped/<source>.parquet       name, reason, rows: genes that no gene table knows, or knows twice
    genes.parquet                   gene, hgnc_id, ensembl_id, ncbi_id, found_by
    sources.json                    of each source: licence, files, rows read and kept by rule, release

A member is one source. `pandas.read_parquet(OUTPUT/associations)` reads all of them.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from storage.commits import Dataset, MemberPlan, Record, Snapshot, open_snapshot
from storage.errors import InputError
from storage.locations import Location

KIND = "databases"
ASSOCIATIONS, TERMS, EDGES, UNMAPPED = "associations", "terms", "edges", "unmapped"
GENES, SOURCES = "genes.parquet", "sources.json"
# Said, not guessed from the rows: a column of empty lists has a type too.
_TEXT = pa.string()
SCHEMAS = {
    ASSOCIATIONS: pa.schema(
        {
            "gene": _TEXT,
            "term_id": _TEXT,
            "source": _TEXT,
            "evidence": _TEXT,
            "score": pa.float64(),
            "raw_term": _TEXT,
            "release": _TEXT,
        }
    ),
    TERMS: pa.schema({"term_id": _TEXT, "name": _TEXT, "parents": pa.list_(_TEXT), "group": _TEXT}),
    EDGES: pa.schema({"gene_a": _TEXT, "gene_b": _TEXT, "score": pa.float64()}),
    UNMAPPED: pa.schema({"name": _TEXT, "reason": _TEXT, "rows": pa.int64()}),
    GENES: pa.schema(dict.fromkeys(("gene", "hgnc_id", "ensembl_id", "ncbi_id", "found_by"), _TEXT)),
}
LICENCE_COLUMNS = ["source", "title", "release", "licence", "licence_url", "redistribute", "attribution"]


def plan_sources(
    location: Location | str, lineage: Mapping[str, Any], sources: Sequence[str], *, overwrite: bool = False
) -> Dataset:
    """Start (or take up) a dataset of these sources. Raises what `Dataset.plan` raises."""
    members = [MemberPlan(source, {}) for source in sources]
    return Dataset.plan(location, kind=KIND, lineage=lineage, members=members, overwrite=overwrite)


def write_source(
    dataset: Dataset, source: str, tables: Mapping[str, bytes], facts: Mapping[str, Any]
) -> Record:
    """Commit the tables of one source as `encoded` by the names at the top of this file; `edges` may be
    absent.
    """
    writer = dataset.member(source)
    counts = {}
    for name, content in tables.items():
        writer.put(f"{name}/{source}.parquet", content)
        counts[f"n_{name}"] = pq.read_metadata(io.BytesIO(content)).num_rows
    return writer.commit(counts | dict(facts))


def finish_sources(dataset: Dataset, genes: pd.DataFrame) -> Snapshot:
    """Write what is about all sources, and finish. Raises InputError when a source is missing."""
    records = list(dataset.records())
    described = {record.key: dict(record.facts) for record in records}
    counts = {
        f"n_{name}": sum(record.facts.get(f"n_{name}", 0) for record in records)
        for name in (ASSOCIATIONS, TERMS, EDGES, UNMAPPED)
    }
    objects = {GENES: encoded(GENES, genes), SOURCES: json.dumps(described, indent=2).encode()}
    return dataset.finish(objects, {"sources": list(described), "n_genes": len(genes), **counts})


class Databases:
    """Reader of a finished dataset of databases. Pickles by location; use `open`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.lineage = snapshot.lineage
        self.dataset_id = snapshot.dataset_id
        self.facts = snapshot.facts
        self._described = {record.key: dict(record.facts) for record in snapshot.members}

    @classmethod
    def open(cls, path: Location | os.PathLike[str] | str) -> Databases:
        """Raises InputError when no finished dataset is there, DamagedDataset when parts are missing."""
        snapshot = open_snapshot(Location.of(path), KIND)
        snapshot.check_sizes()
        return cls(snapshot)

    def __reduce__(self) -> tuple[Any, ...]:
        return Databases, (self.snapshot,)

    @property
    def sources(self) -> list[str]:
        """Names of all sources, in the order of the registry: `gencc`, `hpo`, `string`, `gmt-h.all.v7.0`."""
        return list(self._described)

    def describe(self, source: str) -> dict[str, Any]:
        """What is known of one source: title, evidence_group, licence, release, files, rules, rows.

        Raises InputError for a source that is not there.
        """
        if source not in self._described:
            raise InputError(
                f"{self.snapshot.location}: no source {source}; there are {', '.join(self.sources)}"
            )
        return self._described[source]

    def terms(self, source: str) -> pd.DataFrame:
        """term_id, name, parents (list of term ids, may be empty), group (`evidence_group` of the term).

        One row per term_id. Terms without a gene of their own are there when they are ancestors of one that
        has. A source that is only a network has none.
        """
        return self._table(TERMS, source)

    def associations(self, source: str) -> pd.DataFrame:
        """gene, term_id, source, evidence, score, raw_term, release; one row per (gene, term_id, evidence).

        `gene` is the approved symbol where the gene table knows the gene, else the name the source uses;
        `genes()` has its ids. `evidence` is in the source's words (a classification, a predicate, `direct` or
        `propagated`); drop duplicates of (gene, term_id) for a set of genes. `score` is NaN where the source
        gives none.
        """
        return self._table(ASSOCIATIONS, source)

    def edges(self, source: str = "string") -> pd.DataFrame:
        """gene_a, gene_b (gene_a < gene_b, each once), score (0 to 1000). Raises InputError: no network."""
        self.describe(source)
        if f"{EDGES}/{source}.parquet" not in self.snapshot.all_objects:
            raise InputError(f"{self.snapshot.location}: {source} has no edges")
        return self._table(EDGES, source)

    @property
    def networks(self) -> list[str]:
        """Sources that have edges."""
        return [name for name in self.sources if f"{EDGES}/{name}.parquet" in self.snapshot.all_objects]

    def evidence_group(self, source: str) -> str:
        """What kind of witness a source is: sources of one group are not independent of each other.

        `Mendelian disease`, `phenotype`, `common-trait`, `disease` (aggregates of several kinds), `network`,
        `pathway`.
        """
        group: str = self.describe(source)["evidence_group"]
        return group

    def unmapped(self, source: str) -> pd.DataFrame:
        """name, reason (`unmatched`, `ambiguous`), rows: genes that kept the name their source gives them."""
        return self._table(UNMAPPED, source)

    @cached_property
    def genes(self) -> pd.DataFrame:
        """gene, hgnc_id, ensembl_id, ncbi_id ("" where unknown), found_by; one row per gene of any source."""
        return pd.read_parquet(io.BytesIO(self.snapshot.read(GENES)))

    def licences(self) -> pd.DataFrame:
        """source, title, release, licence, licence_url, redistribute, attribution: one row per source.

        Rows of sources with `redistribute` False may not leave the user's house.
        """
        rows = [{"source": name, **self._described[name]} for name in self.sources]
        return pd.DataFrame(rows, columns=LICENCE_COLUMNS)

    def _table(self, name: str, source: str) -> pd.DataFrame:
        self.describe(source)
        return pd.read_parquet(io.BytesIO(self.snapshot.read(f"{name}/{source}.parquet")))


def encoded(name: str, table: pd.DataFrame) -> bytes:
    """A table as Parquet with the types of its name in `SCHEMAS`."""
    buffer = io.BytesIO()
    rows = pa.Table.from_pandas(table, SCHEMAS[name], preserve_index=False)
    pq.write_table(rows, buffer, compression="zstd")
    return buffer.getvalue()
