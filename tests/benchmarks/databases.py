"""Reading databases of their true sizes: CPU-seconds and peak memory of the `databases` job."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.published import files
from tests.benchmarks.report import REPOSITORY, Figure, main

ABOUT = """`databases --from` over made-up files in the published layouts and of about the published sizes:
ClinVar's variant_summary (43 columns, 0.8 KB a row, two rows an allele), STRING's protein.links.detailed
(both directions) and Open Targets' association_by_datasource_indirect (26.06, in 20 parts; the score is made
again without text mining). Each in a process of its own; peak memory is the most that process held, of which
Python with its libraries takes what the first figure says. Made here because there was no network; what the
rules keep of real files differs."""

# (source, what makes its files, rows of the published release)
SIZES: tuple[tuple[str, Callable[[Path, int], Path], int], ...] = (
    ("clinvar", files.clinvar, 4_000_000),
    ("string", files.string, 13_700_000),
    ("opentargets", files.open_targets, 26_000_000),
)
# What a small machine has to spare.
MOST_MEMORY_GB = 2.0


def read(folder: Path, source: str, output: Path) -> tuple[float, float, int]:
    """(CPU-seconds, peak GB, associations or edges kept) of the job."""
    # A process between us and the job: the peak of children is the largest of all there ever were.
    script = (
        "import json, resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], check=True, capture_output=True, text=True)\n"
        "spent = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "record = json.loads(done.stdout.strip().splitlines()[-1])\n"
        "print(json.dumps([spent.ru_utime + spent.ru_stime, spent.ru_maxrss, record['counts_out']]))\n"
    )
    job = [sys.executable, "-m", "jobs.databases", "--from", str(folder), "--only", source]
    command = [sys.executable, "-c", script, *job, "--json", "--output", str(output)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    seconds, peak, counts = json.loads(done.stdout)
    return seconds, peak * 1024 / 1e9, counts["associations"] + counts["edges"]


def bare() -> float:
    """GB of the job that does nothing but load what it needs."""
    script = "import engine.interpret.databases.build"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True)
    return max(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, before) * 1024 / 1e9


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    figures = [Figure.error("memory of the libraries alone", bare(), "GB", None)]
    for source, make, rows in SIZES:
        rows = rows // 200 if smoke else rows
        folder = scratch / source
        folder.mkdir()
        make(folder, rows)
        seconds, peak, kept = read(folder, source, scratch / f"{source}-tables")
        what = f"{source}, {rows:,} rows, {kept:,} kept"
        figures.append(Figure.error(f"CPU-seconds of {what}", seconds, "s", None))
        figures.append(Figure.error(f"peak memory of {what}", peak, "GB", MOST_MEMORY_GB))
    return figures


if __name__ == "__main__":
    raise SystemExit(main("databases", ABOUT, measure))
