"""Opening what an enrichment is made from: feature tables, databases, GMT files.

Shape legend: G genes of the background.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from engine.interpret.databases import Databases, read_gmt
from engine.interpret.enrichment.lists import LARGEST_TERM, Background, GeneLists, TermSets
from storage.databases import LICENCE_COLUMNS
from storage.errors import InputError
from storage.features import FeatureTables

GeneKey = Literal["auto", "name", "id"]
LARGEST_BROAD = 1000
BROAD = frozenset({"phenotype", "disease"})
"""Evidence groups whose hierarchies gather many genes in terms that still say something."""
SMALLEST_LIST = 3
"""Features that fire on fewer genes of the background are not tested: no term could be told from chance."""


@dataclass(frozen=True)
class SourceTables:
    """One source as it is on disk: `terms` and `associations` as of `storage.databases.Databases`."""

    name: str
    terms: pd.DataFrame
    associations: pd.DataFrame


@dataclass(frozen=True)
class Knowledge:
    """Everything genes are compared with. identity: what decides it, for the lineage.

    licences: one row per source. edges: gene_a, gene_b, score of a network, None without one.
    """

    sources: tuple[SourceTables, ...]
    licences: pd.DataFrame
    edges: pd.DataFrame | None
    identity: dict[str, Any]

    @property
    def genes(self) -> pd.Index:
        """Names of all genes of all sources."""
        named = [one.associations["gene"].to_numpy(object) for one in self.sources]
        names: pd.Index = pd.Index(np.unique(np.concatenate(named)))
        return names


def open_knowledge(databases: str | None, gmt: Sequence[str], only: Sequence[str] = ()) -> Knowledge:
    """Sources of a `databases` dataset, then those of GMT files. `only`: names of the sources wanted.

    Raises InputError when neither is given, a source is not there or comes twice, a file is damaged.
    """
    if not databases and not gmt:
        raise InputError("nothing to compare with: give --databases DIR, --gmt FILE, or both.")
    found = list(_of_databases(databases)) if databases else []
    licences = [Databases.open(databases).licences()] if databases else []
    for path in gmt:
        terms, associations = read_gmt(_file(path))
        source = str(associations["source"].iloc[0])
        if any(source == one.name for one in found):
            raise InputError(f"{path}: a source named {source} is there already; give it once.")
        found.append(SourceTables(source, terms, associations))
        licences.append(pd.DataFrame([{"source": source, "title": Path(path).name}], columns=LICENCE_COLUMNS))
    networks = Databases.open(databases).networks if databases else []
    unknown = sorted(set(only) - {one.name for one in found} - set(networks))
    if unknown:
        names = ", ".join(one.name for one in found)
        raise InputError(f"--only: no source {', '.join(unknown)}; there are {names}.")
    chosen = tuple(one for one in found if not only or one.name in only)
    if not chosen:
        raise InputError("no source with terms is left: a network alone cannot be tested against.")
    identity = {
        "databases": Databases.open(databases).dataset_id if databases else None,
        "gmt": {Path(path).name: hashlib.sha256(Path(path).read_bytes()).hexdigest()[:32] for path in gmt},
        "sources": [one.name for one in chosen],
    }
    network, edges = _network(databases, only)
    table = pd.concat(licences, ignore_index=True)
    used = [one.name for one in chosen] + network
    return Knowledge(chosen, table[table["source"].isin(used)].reset_index(drop=True), edges, identity)


def _of_databases(path: str) -> Iterator[SourceTables]:
    databases = Databases.open(path)
    for source in databases.sources:
        terms = databases.terms(source)
        if len(terms):
            yield SourceTables(source, terms, databases.associations(source))


def _network(path: str | None, only: Sequence[str]) -> tuple[list[str], pd.DataFrame | None]:
    """(its name, its edges) of the first network of the databases, unless only other sources were asked
    for."""
    if not path:
        return [], None
    databases = Databases.open(path)
    wanted = [name for name in databases.networks if not only or name in only][:1]
    return wanted, databases.edges(wanted[0]) if wanted else None


def _file(path: str) -> Path:
    if "://" in path or not Path(path).is_file():
        raise InputError(f"--gmt {path}: no such file; give a GMT file on this machine.")
    return Path(path)


@dataclass(frozen=True)
class FeatureGenes:
    """The features of one autoencoder as gene lists: what is tested.

    lists: of features with enough genes. ranked: the genes of each of them, the strongest first. ranges:
    key -> [first, stop) of all features.
    """

    background: Background
    lists: GeneLists
    ranked: dict[int, tuple[str, ...]]
    ranges: dict[str, tuple[int, int]]
    dataset_id: str
    key: str


def open_features(path: str, knowledge: Knowledge, top_genes: int, key: GeneKey = "auto") -> FeatureGenes:
    """The `top_genes` first genes of each feature, and the genes that could have been among them.

    A gene could when the model knows it and the activations hold enough of its tokens for the ranking
    (`--min-gene-tokens` of the feature tables). key: compare by gene name, by gene id, or by whichever the
    sources know more of. Raises InputError when they know none, and when fewer genes were listed.
    """
    tables = FeatureTables.open(path)
    options = tables.lineage.get("tables", {})
    if top_genes > int(options.get("top_genes", top_genes)):
        raise InputError(
            f"--top-genes is {top_genes}, and {path} lists {options['top_genes']} genes a feature; make the "
            "feature tables with more, or ask for fewer."
        )
    genes = tables.genes
    seen = genes[genes["n_tokens"] >= max(int(options.get("min_gene_tokens", 1)), 1)]
    called = {"name": genes["gene_name"].astype(str), "id": genes["gene_id"].astype(str)}
    # Ensembl ids without their version: databases have other versions or none.
    called["id"] = called["id"].str.replace(r"\.\d+$", "", regex=True)
    names = {one: column[seen.index] for one, column in called.items()}
    known = {one: int(column.isin(knowledge.genes).sum()) for one, column in names.items()}
    chosen = key if key != "auto" else max(known, key=lambda one: known[one])
    if not known[chosen]:
        raise InputError(
            f"{path}: none of its {len(seen):,} genes by {chosen} ({', '.join(names[chosen].head(3))}, ...)"
            f" is in a term ({', '.join(knowledge.genes[:3])}, ...); the sources are for other gene names "
            "or another species."
        )
    background = Background.of(names[chosen], seen["mean_expression"])
    ranked = _ranked(tables, background, called[chosen].to_numpy(object), top_genes)
    return FeatureGenes(
        background,
        GeneLists.of(background, list(ranked), ranked.values()),
        ranked,
        {key: _extent(tables, key) for key in tables.ranges},
        tables.dataset_id,
        chosen,
    )


def _extent(tables: FeatureTables, key: str) -> tuple[int, int]:
    numbers = tables.table("features", [key])["feature"]
    return int(numbers.iloc[0]), int(numbers.iloc[-1]) + 1


def _ranked(
    tables: FeatureTables, background: Background, called: np.ndarray, top_genes: int
) -> dict[int, tuple[str, ...]]:
    """Genes of the background each feature lists, by rank, of features that list enough of them."""
    top = tables.top_genes
    top = top[top["rank"] < top_genes]
    names = called[top["gene"].to_numpy(np.int64)]
    known = np.flatnonzero(pd.Index(names).isin(background.genes))
    found: dict[int, dict[str, None]] = {}
    for feature, gene in zip(top["feature"].to_numpy()[known].tolist(), names[known].tolist(), strict=True):
        found.setdefault(feature, {})[gene] = None
    return {feature: tuple(genes) for feature, genes in sorted(found.items()) if len(genes) >= SMALLEST_LIST}


def term_sets(
    knowledge: Knowledge, background: Background, smallest: int, largest: int | None = None
) -> list[TermSets]:
    """The sources on a background; those without a term of a size to be tested are left out.

    largest: None for LARGEST_TERM, and LARGEST_BROAD for sources whose terms are phenotypes or diseases.
    Raises InputError when nothing is left.
    """
    every = [
        TermSets.of(
            background,
            one.name,
            one.terms,
            one.associations,
            smallest=smallest,
            largest=largest or (LARGEST_BROAD if set(one.terms["group"]) <= BROAD else LARGEST_TERM),
        )
        for one in knowledge.sources
    ]
    left = [terms for terms in every if len(terms)]
    if not left:
        raise InputError(
            f"no term has {smallest} to {largest or LARGEST_TERM} genes among the {len(background):,} genes "
            "of the activations; see --smallest-term and --largest-term."
        )
    return left


def licence_rows(licences: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values: unknown is None, `redistribute` True, False or None."""
    rows = licences.astype(object).where(licences.notna(), None).to_dict("records")
    found = [{str(name): value for name, value in row.items()} for row in rows]
    for row in found:
        # Joined with sources of unknown terms the column has turned into numbers.
        row["redistribute"] = None if row["redistribute"] is None else bool(row["redistribute"])
    return found
