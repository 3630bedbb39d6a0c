"""`run.json`: what a job did, with what, from what, how fast and in how much memory."""

import importlib.metadata
import json
import platform
import resource
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.locations import Location

RECORD_NAME = "run.json"

# The packages whose version can change a number or a byte of an output.
VERSIONED_PACKAGES = (
    "syncytium", "torch", "ray", "deepspeed", "anndata", "zarr", "numcodecs", "numpy", "scipy", "pyarrow",
    "safetensors", "sae-lens",
)  # fmt: skip


@dataclass(kw_only=True)
class Outcome:
    """What a job's `run` returns; `launch` completes it with times, versions and memory.

    lineage: identity of the output (hash over everything that changes its values).
    counts_in, counts_out: named counts, e.g. {"cells": 2638}.
    throughput: named rates with their unit in the name, e.g. {"cells_per_second": 310.0}.
    facts: anything else worth keeping beside the output; JSON values only.
    did_work: False when the output was already complete and nothing was done.
    peak_memory_bytes: the largest resident set of a worker process, where the job measured one.
    exit_code: 0, or 2 for a job that reports on its input (`check`) and found errors in it.
    writes_record: False for a job whose --output is a single report file, not a dataset.
    """

    lineage: str | None = None
    counts_in: dict[str, int] = field(default_factory=dict)
    counts_out: dict[str, int] = field(default_factory=dict)
    throughput: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    did_work: bool = True
    peak_memory_bytes: int | None = None
    exit_code: int = 0
    writes_record: bool = True


def driver_peak_memory() -> int:
    """Largest resident set of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: Linux carries it over exec, so a job started by a large process would look large.
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in VERSIONED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            # A plain checkout (`ray job submit --working-dir .`) runs without being installed.
            found[package] = "not installed"
    return found


def complete(job: str, options: dict[str, Any], outcome: Outcome, started: datetime) -> dict[str, Any]:
    """The full record of one finished run, ready for JSON."""
    ended = datetime.now(UTC)
    record = {"job": job, "options": options, **asdict(outcome)}
    del record["exit_code"], record["peak_memory_bytes"], record["writes_record"]
    return {
        **record,
        "versions": versions(),
        "started": started.isoformat(timespec="seconds"),
        "ended": ended.isoformat(timespec="seconds"),
        "wall_seconds": round((ended - started).total_seconds(), 3),
        "peak_memory_bytes": {"driver": driver_peak_memory(), "worker": outcome.peak_memory_bytes},
    }


def write(location: Location, record: dict[str, Any]) -> None:
    """Put the record beside the output, atomically."""
    location.put(RECORD_NAME, json.dumps(record, indent=2, sort_keys=False, default=str).encode())


def read(location: Location) -> dict[str, Any] | None:
    if not location.exists(RECORD_NAME):
        return None
    record: dict[str, Any] = json.loads(location.read(RECORD_NAME))
    return record
