"""`syncytium databases`: files of public databases -> one table of which genes go with which terms."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.interpret.databases.build import Built


@dataclass(kw_only=True)
class Options(JobOptions):
    """Read Open Targets, HPO, GWAS Catalog, DisGeNET, Monarch, STRING, OMIM, Orphanet, ClinVar, GenCC,
    Reactome, KEGG, GO and any GMT file into associations of genes with terms, for `enrich`.

    Files are known by their published names, also inside folders, plain, .gz or .zip. Nothing is written
    unless every one of them is what its name says.
    """

    from_: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Folder of the files. With --download, where they go (default: OUTPUT-files)."""
    only: str | None = None
    """Sources to use, e.g. gencc,hpo,gmt. Default: all that are there, KEGG excepted."""
    preset: Literal["recommended", "strict", "loose", "published"] = "recommended"
    """Which rows count: see the guide."""
    download: bool = False
    """Fetch the files first; what was fetched before is kept, an interrupted file goes on. Keys are read from
    OMIM_API_KEY and DISGENET_API_KEY."""
    accept_licences: bool = False
    """With --download: the licences of restricted sources (OMIM, DisGeNET, KEGG) are accepted."""


def run(options: Options) -> Outcome:
    from engine.interpret.databases.build import build
    from engine.interpret.databases.found import find_sources

    output = options.output_location
    only = comma_separated(options.only or "")
    folder = _folder(options)
    if options.download:
        _download(options, folder, only)
    found = find_sources(folder, only)
    for path in found.passed_over:
        print(f"databases: {path} is not read: another file of its kind is", file=sys.stderr)
    if found.unknown:
        names = ", ".join(path.name for path in found.unknown[:5])
        print(
            f"databases: not read, of no known name: {names} ({len(found.unknown)} in all)", file=sys.stderr
        )
    for name in found.not_asked_for:
        print(f"databases: {name} is not read unless it is named in --only", file=sys.stderr)
    built = build(
        found, options.preset, output, overwrite=options.overwrite, report=ProgressLine("databases")
    )
    for note in built.notes:
        print(f"databases: {note}", file=sys.stderr)
    return _outcome(built)


def _outcome(built: "Built") -> Outcome:
    facts, members = built.snapshot.facts, built.snapshot.members
    kept = ("release", "rows_read", "dropped", "n_associations", "n_terms", "n_edges", "n_unmapped", "notes")
    return Outcome(
        lineage=built.snapshot.lineage_id,
        counts_in={"rows": sum(record.facts["rows_read"] for record in members)},
        counts_out={
            "sources": len(members),
            "associations": facts["n_associations"],
            "terms": facts["n_terms"],
            "edges": facts["n_edges"],
            "genes": facts["n_genes"],
        },
        facts={record.key: {name: record.facts.get(name, 0) for name in kept} for record in members},
        did_work=built.did_work,
    )


def _folder(options: Options) -> Path:
    if options.accept_licences and not options.download:
        raise InputError("--accept-licences: belongs to --download.")
    if options.from_ is None and not options.download:
        raise InputError("--from is missing: say where the files are, or --download to fetch them.")
    if options.from_ is not None:
        return Path(options.from_).expanduser()
    if options.output_location.local is None:
        raise InputError("--download: say with --from where on this machine the files go.")
    return Path(f"{options.output_location}-files")


def _download(options: Options, folder: Path, only: Sequence[str]) -> None:
    from engine.interpret.databases.download import download

    def say(line: str) -> None:
        print(f"databases: {line}", file=sys.stderr)

    def progress(name: str) -> ProgressLine:
        return ProgressLine(f"databases: {name}")

    download(folder, only, accept_licences=options.accept_licences, say=say, progress=progress)


def main(argv: Sequence[str] | None = None) -> int:
    return launch("databases", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
