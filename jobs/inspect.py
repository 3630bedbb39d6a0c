"""`syncytium inspect PATH`: what a dataset or model directory is, and whether it is whole."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from jobs.anatomy import JobOptions, Outcome, launch
from storage.errors import DamagedDataset
from storage.locations import Location


@dataclass(kw_only=True)
class Options(JobOptions):
    """Say what is at a path: kind, lineage, members committed and planned, size, sample. Changes nothing."""

    path: Annotated[str, tyro.conf.Positional]
    """A dataset of any kind, finished or not, or a model directory: a local path or an fsspec URL."""
    verify: bool = False
    """Read every object and compare its hash with the committed one. Default: compare sizes."""


def run(options: Options) -> Outcome:
    from storage.inspection import describe

    description = describe(options.path, verify=options.verify)
    for name, value in description.facts.items():
        for line in _lines(name, value):
            print(line)
    if description.sample:
        print(f"sample\n{_indented(description.sample)}")
    problems = description.problems
    print(f"problems: {len(problems) or 'none'}")
    for problem in problems:
        print(f"  {problem}")
    if options.output:
        report = {**description.facts, "problems": problems}
        Location.of(options.output).put("", json.dumps(report, indent=2).encode())
    if problems:
        raise DamagedDataset(f"{options.path}: {len(problems)} damaged objects, the first: {problems[0]}")
    facts = description.facts
    return Outcome(
        lineage=facts.get("lineage_id"),
        counts_out={"members": facts["members_committed"]} if "members_committed" in facts else {},
        facts=facts,
        writes_record=False,
    )


def _lines(name: str, value: Any, depth: int = 0) -> list[str]:
    """`name: value`, nested mappings indented below their name; empty ones and None are left out."""
    indent = "  " * depth
    if isinstance(value, dict):
        inner = [line for key, entry in value.items() for line in _lines(key, entry, depth + 1)]
        return [f"{indent}{name}", *inner] if inner else []
    if value is None or value == []:
        return []
    if isinstance(value, list):
        text = ", ".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in value)
    elif isinstance(value, int) and not isinstance(value, bool) and name != "seed":
        text = f"{value:,}"
    else:
        text = str(value)
    return [f"{indent}{name}: {text}"]


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())


def main(argv: Sequence[str] | None = None) -> int:
    return launch("inspect", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
