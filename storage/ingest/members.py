"""Writing the members of a cell store from a plan; what one worker does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from storage.commits import Dataset, MemberPlan, Record
from storage.errors import DamagedDataset, InputError
from storage.ingest.count_rows import store_rows, stored_dtype
from storage.ingest.member_files import CountsWriter, put_tables
from storage.locations import Location
from storage.obs_tables import SOURCE_FILE, ObsColumn, conform, encode_part
from storage.shard_reading import ShardedArray, read_single_chunk
from storage.sources import Source, open_source
from storage.validation import FileReport


@dataclass(frozen=True)
class PlannedFile:
    """One input of a plan. `of_column[j]` is the store's gene of its column j, -1 for none."""

    path: str
    counts: str
    of_column: npt.NDArray[np.int32]
    label: str
    """Name of the file in `source_file` and, where `suffix`, at the end of cell names."""


@dataclass(frozen=True)
class IngestPlan:
    """Everything a worker needs to write any member; picklable."""

    dataset: Dataset
    files: list[PlannedFile]
    genes: pd.DataFrame
    columns: list[ObsColumn]
    min_genes: int
    suffix_names: bool
    reports: list[FileReport]
    tasks: list[list[str]] = field(default_factory=list)
    """Keys of pending members that one worker should do together."""


def write_members(plan: IngestPlan, keys: Sequence[str]) -> list[Record]:
    """Write members of one file with the file opened once."""
    members = {member.key: member for member in plan.dataset.members}
    with open_source(plan.files[members[keys[0]].facts["file"]].path) as source:
        return [_write(plan, members[key], source) for key in keys]


def write_member(plan: IngestPlan, key: str) -> Record:
    """Write and commit one member; the same plan gives the same bytes."""
    return write_members(plan, [key])[0]


def _write(plan: IngestPlan, member: MemberPlan, source: Source) -> Record:
    facts, writer = member.facts, plan.dataset.member(member.key)
    file, number = plan.files[facts["file"]], int(member.key)
    start, stop = facts["start"], facts["stop"]
    group, dtype = f"dataset_{number}", stored_dtype(facts["largest"])
    counts = CountsWriter(group, len(plan.genes), dtype, writer.put)
    kept = np.zeros(stop - start, dtype=bool)
    probe: tuple[int, sparse.csr_matrix] | None = None
    for first, block in source.matrices[file.counts].blocks(start, stop):
        rows, kept_here = store_rows(block, file.of_column, len(plan.genes), plan.min_genes)
        kept[first - start : first - start + len(kept_here)] = kept_here
        # One block is compared after reading it back; which one differs between members but not between runs.
        if probe is None or (first // 7 + number) % 3 == 0:
            probe = int(kept[: first - start].sum()), rows
        counts.append(rows)
    counts.close()
    _require_as_scanned(file.path, counts, facts)

    obs = _obs(plan, file, source, start, stop)[kept]
    put_tables(group, obs, plan.genes, writer.put)
    part = f"_obs/part-{number:06d}.parquet"
    writer.put(part, encode_part(obs, number, counts.genes_per_cell, counts.totals_per_cell))
    if probe is not None:
        _require_readable(plan.dataset.location, group, counts, *probe)
    kept_facts = {name: facts[name] for name in ("n_cells", "nnz", "total", "file")}
    begin = sum(other.facts["n_cells"] for other in plan.dataset.members[:number])
    rows_of = {"start": begin, "stop": begin + facts["n_cells"], "file_start": start, "file_stop": stop}
    return writer.commit({**kept_facts, **rows_of, "group": group, "obs": part, "dtype": dtype.name})


def _obs(plan: IngestPlan, file: PlannedFile, source: Source, start: int, stop: int) -> pd.DataFrame:
    read = [column.name for column in plan.columns if column.name in source.obs.columns]
    table = source.obs.rows(start, stop, read)
    if len(plan.files) > 1 and SOURCE_FILE not in table.columns:
        table = table.assign(**{SOURCE_FILE: file.label})
    names = [str(name) for name in table.index]
    if plan.suffix_names:
        names = [f"{name}-{file.label}" for name in names]
    # AnnData refuses an index that has the name of a column.
    title = None if table.index.name in table.columns else table.index.name
    return conform(table.set_axis(pd.Index(names, dtype=object, name=title), axis=0), plan.columns)


def _require_as_scanned(path: str, counts: CountsWriter, facts: Any) -> None:
    """The scan measured the member before; another result means the file changed in between."""
    genes, totals = counts.genes_per_cell, counts.totals_per_cell
    found = {"n_cells": len(genes), "nnz": int(genes.sum(dtype=np.int64)), "total": int(totals.sum())}
    for name, value in found.items():
        if value != facts[name]:
            raise InputError(
                f"{path}: cells {facts['start']:,}-{facts['stop']:,} have {name} {value:,}, the scan before "
                f"found {facts[name]:,}; the file changed while it was read. Ingest again with --overwrite."
            )


def _require_readable(
    location: Location, group: str, counts: CountsWriter, first: int, rows: sparse.csr_matrix
) -> None:
    """Read the row pointers and one block back from the store and compare with what was meant."""
    indptr = read_single_chunk(location, f"{group}/X/indptr")
    low, high = int(indptr[first]), int(indptr[first + rows.shape[0]])
    genes = ShardedArray(location, f"{group}/X/indices").read([(low, high)])
    values = ShardedArray(location, f"{group}/X/data").read([(low, high)])
    same_rows = np.array_equal(np.diff(indptr), counts.genes_per_cell)
    if not (same_rows and np.array_equal(genes, rows.indices) and np.array_equal(values, rows.data)):
        raise DamagedDataset(
            f"{location}/{group}: what was read back is not what was written; check the disk."
        )
