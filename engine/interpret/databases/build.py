"""From the files of a folder to a dataset of associations.

Everything is read before anything is written: a file that is refused leaves no output behind. Tables wait in
a temporary folder meanwhile, so that memory holds one source at a time.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from engine.interpret.databases.found import Found
from engine.interpret.databases.hgnc import Gene, GeneNames, unmapped_table
from engine.interpret.databases.intake import Intake
from engine.interpret.databases.ontologies import Ontology, read_obo
from engine.interpret.databases.origins import origin_of
from engine.interpret.databases.rules import rules_of
from engine.interpret.databases.source import Files, Source
from storage import databases as stored
from storage.commits import Snapshot
from storage.locations import Location
from storage.protocol.snapshots import PLAN

# done, total, unit
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Built:
    """What `build` did; `did_work` is False when everything was there."""

    snapshot: Snapshot
    did_work: bool
    notes: list[str] = field(default_factory=list)


def build(
    found: Found, preset: str, output: Location, *, overwrite: bool = False, report: Progress | None = None
) -> Built:
    """Write the dataset to `output`. Raises InputError for a file that is not what its name says, before
    anything is written; LineageMismatch when another dataset is there.
    """
    report = report or (lambda done, total, unit: None)
    lineage = _lineage(found, preset)
    sources = [source.name for source, _ in found.sources]
    if output.exists(PLAN) and not overwrite:
        dataset = stored.plan_sources(output, lineage, sources)
        if dataset.is_complete:
            return Built(dataset.finish(), did_work=False)
    names = GeneNames.read(found.hgnc) if found.hgnc else GeneNames.none()
    notes = [] if found.hgnc else ["no hgnc_complete_set.txt: genes keep the names their sources give them"]
    genes: set[Gene] = set()
    facts = {}
    with tempfile.TemporaryDirectory(prefix="databases-") as waiting:
        for done, (source, files) in enumerate(found.sources, 1):
            rules = rules_of(preset, source.name)
            intake = read_source(source, files, rules)
            notes += intake.notes
            described = _described(source, files, intake) | {"preset": preset, "rules": asdict(rules)}
            tables, counts = normalised(source, intake, names, genes)
            facts[source.name] = described | counts
            _set_aside(Path(waiting, source.name), tables)
            report(done, len(found.sources), "sources")
        dataset = stored.plan_sources(output, lineage, sources, overwrite=overwrite)
        for member in dataset.pending():
            encoded = {path.name: path.read_bytes() for path in sorted(Path(waiting, member.key).iterdir())}
            stored.write_source(dataset, member.key, encoded, facts[member.key])
    return Built(stored.finish_sources(dataset, _gene_table(genes)), True, notes)


def read_source(source: Source, files: Files, rules: Any) -> Intake:
    """What the rules keep of one source. Raises InputError for a file that is not what its name says."""
    intake = Intake()
    source.read(files, rules, intake)
    if "mondo" in files:
        _mondo(*_version(files["mondo"][0])).name_terms(intake)
    if not intake.associations and intake.edges is None:
        read = ", ".join(f"{count:,} rows of {name}" for name, count in intake.rows.items())
        intake.notes.append(f"{source.name}: no association passed the rules ({read})")
    return intake


@lru_cache(maxsize=1)
def _mondo(path: Path, *version: int) -> Ontology:
    return read_obo(path, prefix="MONDO:")


def normalised(
    source: Source, intake: Intake, names: GeneNames, genes: set[Gene]
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """(tables by name, facts) of one source, genes by their approved symbols; adds the genes to `genes`."""
    rows: dict[tuple[str, str, str], tuple[float, str]] = {}
    used: Counter[Gene] = Counter()
    while intake.associations:  # taken out one by one: two copies of GO's two million would not be small
        association, (score, raw) = intake.associations.popitem()
        gene = names.find(association.gene)
        used[gene] += 1
        key = (association.term_id, gene.gene, association.evidence)
        known = rows.get(key)
        if known is None or score > known[0] or (not score < known[0] and raw < known[1]):
            rows[key] = (score, raw)
    tables = {
        stored.ASSOCIATIONS: _associations(source.name, rows, intake.release),
        stored.TERMS: _terms(source, intake, {term for term, _, _ in rows}),
    }
    if intake.edges is not None:
        tables[stored.EDGES] = _edges(intake.edges, names, used)
    genes.update(used)
    tables[stored.UNMAPPED] = unmapped_table(used)
    found_by = Counter(gene.found_by for gene in used)
    return tables, {"genes_found_by": dict(sorted(found_by.items()))}


def _associations(
    source: str, rows: dict[tuple[str, str, str], tuple[float, str]], release: str
) -> pd.DataFrame:
    keys = sorted(rows)
    columns = {
        "gene": [gene for _, gene, _ in keys],
        "term_id": [term for term, _, _ in keys],
        "source": source,
        "evidence": [evidence for _, _, evidence in keys],
        "score": np.array([rows[key][0] for key in keys], np.float64),
        "raw_term": [rows[key][1] for key in keys],
        "release": release,
    }
    return pd.DataFrame(columns)


def _terms(source: Source, intake: Intake, used: set[str]) -> pd.DataFrame:
    """Terms with a gene, and what is above them."""
    wanted, waiting = set(used), list(used)
    while waiting:
        for parent in intake.terms[waiting.pop()].parents:
            if parent not in wanted and parent in intake.terms:
                wanted.add(parent)
                waiting.append(parent)
    rows = [(term, *intake.terms[term], source.evidence_group) for term in sorted(wanted)]
    return pd.DataFrame(rows, columns=stored.SCHEMAS[stored.TERMS].names)


def _edges(edges: pd.DataFrame, names: GeneNames, used: Counter[Gene]) -> pd.DataFrame:
    """The edges between approved symbols, each pair once with its highest score."""
    pairs = []
    for one, other, score in edges.itertuples(index=False):
        ends = names.find((one,)), names.find((other,))
        used.update(ends)
        a, b = sorted(gene.gene for gene in ends)
        if a != b:
            pairs.append((a, b, score))
    table = pd.DataFrame(pairs, columns=stored.SCHEMAS[stored.EDGES].names)
    table = table.sort_values(["gene_a", "gene_b", "score"], ascending=[True, True, False])
    return table.drop_duplicates(["gene_a", "gene_b"])


def _gene_table(genes: set[Gene]) -> pd.DataFrame:
    """One row a gene; where sources disagree about an unmapped one's ids, the row that has most."""
    table = pd.DataFrame(sorted(genes), columns=stored.SCHEMAS[stored.GENES].names)
    table["filled"] = (table[["hgnc_id", "ensembl_id", "ncbi_id"]] != "").sum(axis=1)
    table = table.sort_values(["gene", "filled"], ascending=[True, False], kind="stable")
    return table.drop_duplicates("gene").drop(columns="filled")


def _set_aside(folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    folder.mkdir()
    for name, table in tables.items():
        (folder / name).write_bytes(stored.encoded(name, table))


def _described(source: Source, files: Files, intake: Intake) -> dict[str, Any]:
    """What `Databases.describe` says of a source beside the counts of its tables."""
    described = []
    for role, paths in files.items():
        for path in paths:
            described.append(
                {
                    "role": role,
                    "name": path.name,
                    "bytes": path.stat().st_size,
                    "sha256": sha256(path),
                    "layout": intake.layouts.get(path.name, "OBO" if ".obo" in path.name else "not read"),
                    "rows": intake.rows.get(path.name, 0),
                    **(origin_of(path) or {}),
                }
            )
    modified = next((entry["last_modified"] for entry in described if entry.get("last_modified")), "")
    intake.release = intake.release or modified
    return {
        "title": source.title,
        "evidence_group": source.evidence_group,
        "licence": source.licence,
        "licence_url": source.licence_url,
        "redistribute": source.redistribute,
        "attribution": source.attribution,
        "release": intake.release,
        "files": described,
        "rows_read": sum(intake.rows.values()),
        "dropped": dict(sorted(intake.dropped.items())),
        "conflicts": intake.conflicts,
        "notes": intake.notes,
    }


def _lineage(found: Found, preset: str) -> dict[str, Any]:
    """What decides the values: the bytes of every file, and the rules."""
    files = {
        source.name: {role: [[path.name, sha256(path)] for path in paths] for role, paths in roles.items()}
        for source, roles in found.sources
    }
    rules = {source.name: asdict(rules_of(preset, source.name)) for source, _ in found.sources}
    return {
        "files": files,
        "rules": rules,
        "preset": preset,
        "hgnc": sha256(found.hgnc) if found.hgnc else None,
    }


def sha256(path: Path) -> str:
    return _sha256(*_version(path))


def _version(path: Path) -> tuple[Path, int, int]:
    """A file as it is now: what is remembered of it holds until it changes."""
    stat = path.stat()
    return path, stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=4096)
def _sha256(path: Path, *version: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
