"""Ingest on Ray: the steps of `storage.ingest`, each file, range of cells or member a task.

`storage` decides what is done and in which order; this module only says where it runs.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayTaskError

from engine import ray_session
from engine.streaming.capacity import RETRIES
from storage.commits import Snapshot
from storage.ingest import (
    IngestOptions,
    add_scan_findings,
    finish_ingest,
    in_process,
    plan_ingest,
    scan_arguments,
    write_members,
)
from storage.ingest.scan import scan_members
from storage.locations import Location
from storage.validation import Choices, FileReport, Survey, Vocabulary, survey

# done, total, unit
Progress = Callable[[int, int, str], None]

# A task decodes, sorts and compresses: it keeps one core busy and must not share it with an encoder.
TASK_CPUS = 1.0
# Starting an embedded Ray takes 3 to 10 seconds; so much compressed input takes less on one core.
SMALL_BYTES = 32 << 20


@dataclass(frozen=True)
class Ingestion:
    """What `ingest` did. `did_work` is False when the store was complete already."""

    snapshot: Snapshot
    reports: list[FileReport]
    did_work: bool
    n_members: int
    n_resumed: int
    cells: int
    """Cells written by this run."""
    plan_seconds: float
    write_seconds: float
    peak_memory_bytes: int | None


class InProcess:
    """A `storage.ingest.Run` without Ray."""

    peak_memory_bytes: int | None = None

    def __call__(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        return in_process(function, arguments)


class OnRay:
    """A `storage.ingest.Run`: calls as Ray tasks, results in order, a few more tasks in flight than cores."""

    def __init__(self) -> None:
        self.peak_memory_bytes: int | None = None

    def __call__(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        call = ray.remote(_measured).options(num_cpus=TASK_CPUS, max_retries=RETRIES)
        arguments = _shared_once(arguments)
        most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1) / TASK_CPUS))
        waiting: list[Any] = []
        for argument in arguments:
            if len(waiting) >= most:
                yield self._result(waiting.pop(0))
            waiting.append(call.remote(function, *argument))
        while waiting:
            yield self._result(waiting.pop(0))

    def _result(self, reference: Any) -> Any:
        try:
            result, peak = ray.get(reference)
        except RayTaskError as error:
            # The refusal itself, not the worker's traceback around it, is what the user has to read.
            raise error.cause from error
        self.peak_memory_bytes = max(self.peak_memory_bytes or 0, peak)
        return result


def _measured(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """The result and this process's largest resident set in bytes."""
    result = function(*arguments)
    unit = 1 if sys.platform == "darwin" else 1024
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _shared_once(arguments: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Arguments that several calls have in common (a plan, a gene map) go to the object store once."""
    times = Counter(id(value) for argument in arguments for value in argument)
    stored: dict[int, Any] = {}

    def reference(value: Any) -> Any:
        if times[id(value)] < 2 or isinstance(value, str | int | float | bool | type(None)):
            return value
        if id(value) not in stored:
            stored[id(value)] = ray.put(value)
        return stored[id(value)]

    return [tuple(reference(value) for value in argument) for argument in arguments]


@contextmanager
def _run(files: Sequence[str], address: str | None) -> Iterator[InProcess | OnRay]:
    """Ray, unless nobody runs one and the files are read before an embedded one would have started."""
    joined = address or os.environ.get("RAY_ADDRESS") or ray.is_initialized()
    if not joined and sum(_bytes_of(path) for path in files) < SMALL_BYTES:
        yield InProcess()
        return
    with ray_session.connect(address):
        yield OnRay()


def _bytes_of(path: str) -> int:
    """Size of a file or folder; 0 for what does not exist, which the survey will report."""
    location = Location.of(path)
    if location.local is None or location.local.is_dir():
        return sum(location.list().values())
    return location.size("") if location.exists() else 0


def ingest(
    files: Sequence[str],
    output: str,
    options: IngestOptions,
    *,
    address: str | None = None,
    report: Progress | None = None,
) -> Ingestion:
    """Input files to a cell store, resumed if it was begun. Raises InputError before anything is written."""
    with _run(files, address) as run:
        started = time.monotonic()
        plan = plan_ingest(files, output, options, run)
        was_complete, pending = plan.dataset.is_complete, sum(map(len, plan.tasks))
        planned = time.monotonic()
        every = plan.dataset.members
        cells = {member.key: int(member.facts["n_cells"]) for member in every}
        total = sum(cells.values())
        resumed = done = total - sum(cells[key] for keys in plan.tasks for key in keys)
        if report is not None:
            report(done, total, "cells")
        for records in run(write_members, [(plan, keys) for keys in plan.tasks]):
            done += sum(int(record.facts["n_cells"]) for record in records)
            if report is not None:
                report(done, total, "cells")
        snapshot = finish_ingest(plan)
        return Ingestion(
            snapshot,
            plan.reports,
            did_work=not was_complete,
            n_members=len(every),
            n_resumed=len(every) - pending,
            cells=done - resumed,
            plan_seconds=planned - started,
            write_seconds=time.monotonic() - planned,
            peak_memory_bytes=run.peak_memory_bytes,
        )


def check(
    files: Sequence[str],
    choices: Choices,
    vocabulary: Vocabulary | None,
    *,
    full: bool = False,
    address: str | None = None,
) -> list[FileReport]:
    """The findings about each file. `full` looks at every value on Ray; otherwise samples, in this
    process.
    """
    surveys = [survey(path, choices, vocabulary) for path in files]
    if full:
        with _run(files, address) as run:
            _scan_all(surveys, run)
    return [one.report for one in surveys]


def _scan_all(surveys: Sequence[Survey], run: OnRay | InProcess) -> None:
    # What cannot be read or has no counts was reported by the survey.
    readable = [one for one in surveys if one.genes is not None and one.report.counts]
    for one in readable:
        scans = [scan for found in run(scan_members, scan_arguments(one)) for scan in found]
        add_scan_findings(one, scans)
