"""`syncytium gc ROOT --keep PATH ...`: remove the datasets that nothing to keep was made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs.anatomy import JobOptions, Outcome, launch
from storage.errors import InputError


@dataclass(kw_only=True)
class Options(JobOptions):
    """Say which datasets below a place are needed by none of those to keep, by lineage; with --delete remove
    them. Models are no datasets and stay; datasets somebody writes stay with what they are made from."""

    root: Annotated[str, tyro.conf.Positional]
    """A folder with datasets: a local path or an fsspec URL."""
    keep: tuple[str, ...] = ()
    """Datasets to keep, as paths below ROOT; what they were made from is kept, too."""
    delete: bool = False
    """Remove them. Default: only say which."""


def run(options: Options) -> Outcome:
    from storage.catalogue import datasets, remove, unneeded

    if not options.keep:
        raise InputError("--keep is missing: say which datasets are to stay (syncytium status lists them).")
    entries = datasets(options.root)
    garbage = unneeded(entries, options.keep)
    for entry in garbage:
        if options.delete:
            remove(entry)
        print(f"{'removed' if options.delete else 'not needed'}: {entry.path}, {entry.size / 1e6:,.1f} MB")
    size = sum(entry.size for entry in garbage)
    print(f"{len(garbage)} of {len(entries)} datasets, {size / 1e6:,.1f} MB")
    return Outcome(
        counts_in={"datasets": len(entries)},
        counts_out={"datasets": len(garbage), "bytes": size},
        facts={"paths": [entry.path for entry in garbage], "deleted": options.delete},
        writes_record=False,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return launch("gc", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
