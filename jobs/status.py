"""`syncytium status ROOT`: every dataset below a place, how far it is, and what it was made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs.anatomy import JobOptions, Outcome, launch


@dataclass(kw_only=True)
class Options(JobOptions):
    """List the datasets below a place: members committed and planned, size, whether somebody is writing, and
    which of the others each was made from. Changes nothing."""

    root: Annotated[str, tyro.conf.Positional]
    """A folder with datasets: a local path or an fsspec URL."""


def run(options: Options) -> Outcome:
    from storage.catalogue import datasets, made_from

    entries = datasets(options.root)
    rows = []
    for entry in entries:
        sources = [source.path or "." for source in made_from(entry, entries)]
        members = f"{entry.committed:,}/{entry.planned:,}"
        print(
            f"{entry.path or '.'}: {entry.kind}, {entry.state}, {members} members, {entry.size / 1e6:,.1f} MB"
            + (f", from {', '.join(sources)}" if sources else "")
        )
        rows.append(
            {
                "path": entry.path,
                "kind": entry.kind,
                "state": entry.state,
                "members_committed": entry.committed,
                "members_planned": entry.planned,
                "bytes": entry.size,
                "made_from": sources,
            }
        )
    if not entries:
        print(f"no datasets below {options.root}")
    return Outcome(counts_in={"datasets": len(entries)}, facts={"datasets": rows}, writes_record=False)


def main(argv: Sequence[str] | None = None) -> int:
    return launch("status", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
