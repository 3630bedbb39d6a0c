"""What a benchmark writes: docs/benchmarks/<name>.json and the page made from it (design section 6)."""

import argparse
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

REPOSITORY = Path(__file__).resolve().parents[2]
REPORTS = REPOSITORY / "docs" / "benchmarks"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured comparison. `value` is what the target speaks about, usually the ratio ours / theirs."""

    name: str
    value: float
    unit: str
    target: float | None
    better: Literal["higher", "lower"]
    ours: float
    theirs: float | None
    theirs_is: str

    @classmethod
    def ratio(
        cls, name: str, ours: float, theirs: float, theirs_is: str, target: float | None = None
    ) -> "Figure":
        """How many times as fast as the alternative: the rates of both, in the unit `theirs_is` ends with."""
        return cls(
            name=name,
            value=ours / theirs,
            unit="x",
            target=target,
            better="higher",
            ours=ours,
            theirs=theirs,
            theirs_is=theirs_is,
        )

    @classmethod
    def cost(
        cls,
        name: str,
        ours: float,
        theirs: float | None,
        unit: str,
        theirs_is: str,
        target: float | None = None,
    ) -> "Figure":
        """What ours costs, beside what the alternative costs: the target speaks about ours alone."""
        return cls(
            name=name,
            value=ours,
            unit=unit,
            target=target,
            better="lower",
            ours=ours,
            theirs=theirs,
            theirs_is=theirs_is,
        )

    @classmethod
    def error(cls, name: str, found: float, unit: str, target: float | None, against: str = "-") -> "Figure":
        """How far our results are from those of the alternative."""
        return cls.cost(name, found, None, unit, against, target)

    @property
    def holds(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "higher" else self.value <= self.target


def machine() -> str:
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} x {model}, {system}"


def commit() -> str:
    finished = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return finished.stdout.strip() or "unknown"


def page(report: dict) -> str:
    rows = [
        "| {name} | {value:.3g} {unit} | {target} | {ours:.4g} | {theirs} | {theirs_is} |".format(
            **{
                **figure,
                "target": "-"
                if figure["target"] is None
                else f"{figure['better']} than {figure['target']:g}",
                "theirs": "-" if figure["theirs"] is None else f"{figure['theirs']:.4g}",
            }
        )
        for figure in report["figures"]
    ]
    return "\n".join(
        [
            f"# {report['name']}",
            "",
            report["about"],
            "",
            f"`{report['command']}` at `{report['commit']}`, {report['date']}, on {report['machine']}.",
            "",
            "| figure | value | target | ours | theirs | theirs is |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main(
    name: str, about: str, measure: Callable[[Path, bool], list[Figure]], argv: list[str] | None = None
) -> int:
    """Run one benchmark. `measure(scratch, smoke)` returns its figures.

    Smoke mode proves that the benchmark runs; it uses small inputs and writes no report.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tests.benchmarks.{name}", description=about)
    parser.add_argument("--smoke", action="store_true", help="small inputs, no report")
    smoke = parser.parse_args(argv).smoke
    with tempfile.TemporaryDirectory(prefix=f"syncytium-{name}-") as scratch:
        figures = measure(Path(scratch), smoke)
    report = {
        "name": name,
        "about": about,
        "command": f"python -m tests.benchmarks.{name}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "figures": [asdict(figure) for figure in figures],
    }
    print(page(report))
    if not smoke:
        REPORTS.mkdir(parents=True, exist_ok=True)
        (REPORTS / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
        (REPORTS / f"{name}.md").write_text(page(report))
    return 0
