"""Input files to a cell store: survey, full scan, plan, members, finish.

Nothing is written before every file has passed validation and every value has been looked at. Each step is a
plain function; who runs it, one process or a cluster, is the caller's choice (`Run`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from storage.cells import COLUMNS_OBJECT, KIND
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.errors import InputError
from storage.gene_tables import GeneTable
from storage.genes import Genes, union_of_genes
from storage.ingest.member_files import group_metadata
from storage.ingest.members import IngestPlan, PlannedFile, write_member, write_members
from storage.ingest.scan import MemberScan, fingerprint, fingerprint_of_input, scan_members
from storage.locations import Location
from storage.obs_tables import SOURCE_FILE, ObsColumn, columns_as_json, union_of_columns
from storage.protocol.snapshots import PLAN
from storage.validation import Choices, Survey, ValueScan, refuse_errors, survey
from storage.validation.cells import empty_cell_findings
from storage.validation.counts import VALUE_CODES

__all__ = [
    "IngestOptions",
    "IngestPlan",
    "add_scan_findings",
    "finish_ingest",
    "in_process",
    "ingest",
    "plan_ingest",
    "scan_arguments",
    "write_member",
    "write_members",
]

# 131,072 cells of 2,000 genes are four shards an array, 350 MB and some CPU-seconds: one task, one retry.
SHARD_CELLS = 131_072
# Raise when the same input would give other bytes: resuming a store begun by an older version is then
# refused.
LAYOUT_VERSION = 3

Run = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]
"""`run(function, arguments)` -> results in the order of `arguments`."""


@dataclass(frozen=True)
class IngestOptions:
    """What decides the content of the store."""

    gene_id_key: str = "auto"
    counts: str = "auto"
    duplicate_genes: str = "auto"
    genes: str | None = None
    """Path of a gene table (`storage.gene_tables`)."""
    min_genes: int = 0
    obs_columns: tuple[str, ...] | None = None
    shard_cells: int = SHARD_CELLS
    max_cells: int | None = None
    overwrite: bool = False

    def choices(self) -> Choices:
        table = None if self.genes is None else GeneTable.read(self.genes)
        return Choices(self.gene_id_key, self.duplicate_genes, table, self.counts)


def in_process(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """The simplest `Run`."""
    return (function(*argument) for argument in arguments)


def ingest(
    files: Sequence[str], output: str | Location, options: IngestOptions | None = None, run: Run = in_process
) -> Snapshot:
    """Plan, write every pending member, finish. Raises InputError with all findings before anything is
    written.
    """
    plan = plan_ingest(files, output, options or IngestOptions(), run)
    for _ in run(write_members, [(plan, keys) for keys in plan.tasks]):
        pass
    return finish_ingest(plan)


def plan_ingest(
    files: Sequence[str], output: str | Location, options: IngestOptions, run: Run = in_process
) -> IngestPlan:
    """Validate, scan every value, and start (or take up) the dataset at `output`.

    A resumed or finished ingest of the same inputs is recognised by their bytes and not scanned again.
    Raises InputError with every error finding; nothing has been written then.
    """
    _check_options(files, options)
    choices = options.choices()
    surveys: list[Survey] = list(run(survey, [(path, choices) for path in files]))
    refuse_errors([one.report for one in surveys])
    surveys, counts_of_cells = _first_cells(surveys, options.max_cells)
    genes, rows = union_of_genes([_genes(one).var for one in surveys])
    labels = _labels([one.path for one in surveys])
    planned = [
        PlannedFile(one.path, one.report.counts, _into_union(_genes(one).of_column, union), label)
        for one, union, label in zip(surveys, rows, labels, strict=True)
    ]
    columns = union_of_columns([one.obs_head for one in surveys], options.obs_columns)
    if len(surveys) > 1 and SOURCE_FILE not in [column.name for column in columns]:
        columns.append(ObsColumn(SOURCE_FILE, "category", tuple(labels)))
    prints = list(run(fingerprint_of_input, [(one.path,) for one in surveys]))
    lineage = _lineage(planned, prints, options, genes, counts_of_cells)

    location = Location.of(output)
    members = _known_members(location, options)
    if members is None:
        members = _scanned_members(surveys, counts_of_cells, options, run)
    dataset = Dataset.plan(location, kind=KIND, lineage=lineage, members=members, overwrite=options.overwrite)
    reports = [one.report for one in surveys]
    suffix = _names_collide(surveys)
    by_rows = [one.by_rows for one in surveys]
    return IngestPlan(
        dataset, planned, genes, columns, options.min_genes, suffix, reports, _tasks(dataset, by_rows)
    )


def finish_ingest(plan: IngestPlan) -> Snapshot:
    """Write the root group and the snapshot; the store exists from here on."""
    facts = [member.facts for member in plan.dataset.members]
    attributes = {
        "encoding-type": "annbatch-preshuffled",
        "encoding-version": "0.1.0",
        "cellstore": {"layout": LAYOUT_VERSION, "lineage": plan.dataset.lineage_id},
    }
    totals = {
        "n_cells": sum(fact["n_cells"] for fact in facts),
        "n_genes": len(plan.genes),
        "nnz": sum(fact["nnz"] for fact in facts),
        "total_counts": sum(fact["total"] for fact in facts),
    }
    objects = {COLUMNS_OBJECT: columns_as_json(plan.columns), "zarr.json": group_metadata(attributes)}
    return plan.dataset.finish(objects, totals)


def _check_options(files: Sequence[str], options: IngestOptions) -> None:
    if not files:
        raise InputError("no input files: name one or more (.h5ad, 10x .h5, a 10x mtx folder, .zarr).")
    if options.shard_cells < 1 or options.min_genes < 0:
        found = f"--shard-cells {options.shard_cells}, --min-genes {options.min_genes}"
        raise InputError(f"{found}: expected at least 1 and at least 0.")
    if options.duplicate_genes not in ("auto", "refuse", "sum"):
        raise InputError(f"--duplicate-genes {options.duplicate_genes!r}: expected auto, refuse or sum.")


def _first_cells(surveys: list[Survey], most: int | None) -> tuple[list[Survey], list[int]]:
    """The files that the first `most` cells come from, and how many cells of each."""
    left = sum(one.report.n_cells for one in surveys) if most is None else most
    kept, numbers = [], []
    for one in surveys:
        if left > 0:
            kept.append(one)
            numbers.append(min(left, one.report.n_cells))
            left -= numbers[-1]
    return kept, numbers


def _genes(one: Survey) -> Genes:
    if one.genes is None:  # a survey without genes has an error finding and was refused
        raise InputError(f"{one.path}: its genes could not be identified.")
    return one.genes


def _into_union(of_column: npt.NDArray[np.int32], union: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    return np.where(of_column < 0, -1, union[of_column]).astype(np.int32)


def _labels(paths: Sequence[str]) -> list[str]:
    """A name for each file that differs from all others: its stem, numbered where stems repeat."""
    labels: list[str] = []
    for path in paths:
        name = PurePosixPath(path.rstrip("/")).name
        stem = name.split(".")[0] or name
        label, number = stem, 2
        while label in labels:
            label, number = f"{stem}-{number}", number + 1
        labels.append(label)
    return labels


def _names_collide(surveys: Sequence[Survey]) -> bool:
    """Whether a cell name of one file occurs in another; names repeated inside one file stay as they are."""
    unique = [np.unique(one.name_hashes) for one in surveys]
    return len(np.unique(np.concatenate(unique))) < sum(map(len, unique))


def _lineage(
    files: Sequence[PlannedFile],
    prints: Sequence[str],
    options: IngestOptions,
    genes: pd.DataFrame,
    counts_of_cells: Sequence[int],
) -> dict[str, Any]:
    """Everything that decides a byte of the store. A lone file's name does not."""
    inputs = [
        {
            "xxh3": mark,
            "counts": file.counts,
            "n_cells": n,
            **({"label": file.label} if len(files) > 1 else {}),
        }
        for file, mark, n in zip(files, prints, counts_of_cells, strict=True)
    ]
    return {
        "layout": LAYOUT_VERSION,
        "inputs": inputs,
        "n_genes": len(genes),
        "gene_id_key": options.gene_id_key,
        "duplicate_genes": options.duplicate_genes,
        "genes": None if options.genes is None else fingerprint([options.genes]),
        "min_genes": options.min_genes,
        "obs_columns": None if options.obs_columns is None else list(options.obs_columns),
        "shard_cells": options.shard_cells,
    }


def _known_members(location: Location, options: IngestOptions) -> list[MemberPlan] | None:
    """The members of the plan that is there already, so that taking it up needs no second scan."""
    if options.overwrite or not location.exists(PLAN):
        return None
    # If it has another lineage, these members let it be refused before a scan that may take an hour.
    return list(Dataset.open(location).members)


def scan_arguments(
    one: Survey, min_genes: int = 0, shard_cells: int = SHARD_CELLS, n_cells: int | None = None
) -> list[tuple[Any, ...]]:
    """Calls of `scan_members` that cover the first `n_cells` cells of a file (default: all), one a member.

    A layout without row access is read as a whole anyway, so one call does all its members.
    """
    n = one.report.n_cells if n_cells is None else n_cells
    ranges = [(start, min(start + shard_cells, n)) for start in range(0, n, shard_cells)]
    tasks = [[piece] for piece in ranges] if one.by_rows else [ranges]
    return [(one.path, one.report.counts, _genes(one).of_column, min_genes, task) for task in tasks]


def _scanned_members(
    surveys: Sequence[Survey], counts_of_cells: Sequence[int], options: IngestOptions, run: Run
) -> list[MemberPlan]:
    of_file = [
        scan_arguments(one, options.min_genes, options.shard_cells, n)
        for one, n in zip(surveys, counts_of_cells, strict=True)
    ]
    files = [file for file, arguments in enumerate(of_file) for _ in arguments]
    found = run(scan_members, [argument for arguments in of_file for argument in arguments])
    scans: list[list[MemberScan]] = [[] for _ in surveys]
    for file, members in zip(files, found, strict=True):
        scans[file] += members
    for one, members in zip(surveys, scans, strict=True):
        add_scan_findings(one, members)
    refuse_errors([one.report for one in surveys])
    kept = [(file, scan) for file, members in enumerate(scans) for scan in members if scan.n_cells]
    if not kept:
        raise InputError(f"no cell is left: none has {options.min_genes:,} genes (--min-genes).")
    return [MemberPlan(f"{number:06d}", _facts(file, scan)) for number, (file, scan) in enumerate(kept)]


def _facts(file: int, scan: MemberScan) -> dict[str, int]:
    return {
        "file": file,
        "start": scan.start,
        "stop": scan.stop,
        "n_cells": scan.n_cells,
        "nnz": scan.nnz,
        "total": scan.total,
        "largest": scan.largest,
    }


def add_scan_findings(one: Survey, scans: Sequence[MemberScan]) -> None:
    """Replace what a sample said about values and empty cells by what the full pass knows."""
    values, report = ValueScan(), one.report
    for scan in scans:
        values.merge(scan.values)
    sampled = ("empty-cells", "empty-cells-unknown", *VALUE_CODES)
    report.findings = [finding for finding in report.findings if finding.code not in sampled]
    report.add(empty_cell_findings(sum(scan.n_empty for scan in scans), report.n_cells, report.counts))
    report.add(values.findings(report.counts, complete=True))


def _tasks(dataset: Dataset, by_rows: Sequence[bool]) -> list[list[str]]:
    """Pending members, one a task; those of a file without row access together, since it is read as a
    whole.
    """
    tasks: dict[Any, list[str]] = {}
    for member in dataset.pending():
        file = member.facts["file"]
        tasks.setdefault(member.key if by_rows[file] else file, []).append(member.key)
    return list(tasks.values())
