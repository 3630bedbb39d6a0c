"""Captions of a store's cells from their metadata: distinct combinations once, part by part, on Ray.

Killing anything loses at most the parts in work; the same call again does what is left.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import xxhash

from engine import ray_session
from engine.captions.dataset import (
    KIND,
    Combinations,
    combinations,
    commit_part,
    finish,
    plan_parts,
    read_parts,
)
from engine.captions.endpoint import Endpoint, Secret
from engine.captions.templates import columns_of
from engine.captions.writing import INSTRUCTIONS, Metadata, write_captions
from engine.tasks import run_tasks
from storage.cells import CellStore
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.errors import InputError
from storage.locations import Location

PART_RECORDS = 32
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Writer:
    """How a language model is asked; picklable. endpoint and concurrency change no caption."""

    endpoint: Endpoint
    columns: tuple[str, ...]
    together: int = 8
    temperature: float = 0.0
    seed: int = 0
    instructions: str = INSTRUCTIONS
    concurrency: int = 4

    def lineage(self) -> dict[str, Any]:
        return {
            "columns": list(self.columns),
            "model": self.endpoint.model,
            "together": self.together,
            "temperature": self.temperature,
            "seed": self.seed,
            "instructions": xxhash.xxh3_128_hexdigest(self.instructions.encode()),
        }

    def write(self, records: Sequence[Metadata]) -> Sequence[str | None]:
        return write_captions(
            self.endpoint,
            records,
            together=self.together,
            temperature=self.temperature,
            seed=self.seed,
            instructions=self.instructions,
        )


@dataclass(frozen=True)
class Template:
    """Captions without a language model."""

    template: str

    @property
    def columns(self) -> tuple[str, ...]:
        columns = tuple(columns_of(self.template))
        if not columns:
            raise InputError(f"--template {self.template!r}: names no obs column in braces.")
        return columns

    def lineage(self) -> dict[str, Any]:
        return {"template": self.template}

    def write(self, records: Sequence[Metadata]) -> Sequence[str | None]:
        """None where a column that the template names is missing."""
        return [
            self.template.format(**record) if set(self.columns) <= record.keys() else None
            for record in records
        ]


@dataclass(frozen=True)
class CaptionReport:
    """What a run did."""

    snapshot: Snapshot
    did_work: bool
    n_cells: int
    n_combinations: int
    n_resumed: int = 0
    """Combinations that had their caption before this run."""


def key_from(variable: str) -> Secret:
    """The key in an environment variable; none where it is not set."""
    return Secret(os.environ.get(variable, ""))


def make_captions(
    cells: str,
    writer: Writer | Template,
    output: Location,
    *,
    max_cells: int | None = None,
    overwrite: bool = False,
    address: str | None = None,
    on_ray: bool = True,
    progress: Progress = lambda done, total, unit: None,
) -> CaptionReport:
    """Captions of the cells at `output`, taking up what is there.

    on_ray: ask in tasks of Ray, `concurrency` at once, so that calls go out from many machines; else one
    after the other in this process, as templates always are.
    Raises InputError before anything is written, and what `write_captions` raises.
    """
    store = CellStore.open(cells)
    n_cells = min(store.n_cells, max_cells or store.n_cells)
    found = combinations(store, n_cells, writer.columns)
    dataset = Dataset.plan(
        output,
        kind=KIND,
        lineage={"cells": store.dataset_id, "n_cells": n_cells, **writer.lineage()},
        members=plan_parts(len(found.records), PART_RECORDS),
        overwrite=overwrite,
    )
    if dataset.is_complete:
        return CaptionReport(dataset.finish(), False, n_cells, len(found.records))
    pending = dataset.pending()
    n_pending = sum(int(part.facts["stop"]) - int(part.facts["start"]) for part in pending)
    tasks = on_ray and isinstance(writer, Writer) and bool(pending)
    with ray_session.connect(address) if tasks else nullcontext():
        run = _in_tasks if tasks else _in_process
        run(writer, dataset, found, pending, progress)
    facts = {"n_cells": n_cells, "n_combinations": len(found.records)}
    snapshot = finish(dataset, store, found, read_parts(dataset), facts)
    return CaptionReport(snapshot, True, n_cells, len(found.records), len(found.records) - n_pending)


def caption_part(writer: Writer | Template, dataset: Dataset, key: str, records: Sequence[Metadata]) -> int:
    """Write and commit one part; how many captions it has."""
    commit_part(dataset, key, writer.write(records))
    return len(records)


def _in_process(
    writer: Writer | Template,
    dataset: Dataset,
    found: Combinations,
    pending: Sequence[MemberPlan],
    progress: Progress,
) -> None:
    total = len(found.records)
    done = total - sum(int(part.facts["stop"]) - int(part.facts["start"]) for part in pending)
    for part in pending:
        done += caption_part(writer, dataset, part.key, _records_of(found, part))
        progress(done, total, "captions")


def _in_tasks(
    writer: Writer | Template,
    dataset: Dataset,
    found: Combinations,
    pending: Sequence[MemberPlan],
    progress: Progress,
) -> None:
    """Parts in tasks, so many at once as the endpoint is to be asked. The first failure ends the run."""
    total = len(found.records)
    done = total - sum(int(part.facts["stop"]) - int(part.facts["start"]) for part in pending)

    def ended(captions: int) -> None:
        nonlocal done
        done += captions
        progress(done, total, "captions")

    calls = [(writer, dataset, part.key, _records_of(found, part)) for part in pending]
    most = writer.concurrency if isinstance(writer, Writer) else 1
    # A task waits for the endpoint nearly all of its time.
    run_tasks(caption_part, calls, at_once=most, ended=ended, cpus=0)


def _records_of(found: Combinations, part: MemberPlan) -> list[dict[str, str]]:
    return found.records[int(part.facts["start"]) : int(part.facts["stop"])]
