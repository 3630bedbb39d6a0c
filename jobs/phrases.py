"""`syncytium phrases`: lists of terms and a joint model -> phrase bank, what cells are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.anatomy import JobOptions, Outcome, ProgressLine, launch
from storage.errors import InputError


@dataclass(kw_only=True)
class Options(JobOptions):
    """Embed lists of terms once, so that `search --phrases` finds those nearest to cells, over all libraries
    and in each."""

    terms: tuple[str, ...]
    """Files of terms: text (.txt, a term a line: a library called like the file), JSON (library -> terms), or
    GMT (the names of gene sets)."""
    joint: str
    """Joint model directory: the one of the index that will be asked."""
    template: str | None = None
    """How a term is put into words, a text with {} or a name: celltype, tissue, disease ... as CellWhisperer
    puts it. Default: the term as it is written."""


def run(options: Options) -> Outcome:
    from engine.retrieval.phrases import build_bank
    from engine.retrieval.texts import Texts

    output = options.output_location
    if not options.terms:
        raise InputError("--terms is missing: name files with terms.")
    libraries = _libraries(options.terms)
    texts = Texts.open(options.joint)
    bank, did_work = build_bank(
        libraries,
        texts,
        output,
        template=options.template,
        overwrite=options.overwrite,
        report=ProgressLine("phrases"),
    )
    return Outcome(
        lineage=bank.snapshot.lineage_id,
        counts_in={"files": len(options.terms)},
        counts_out={"phrases": len(bank), "libraries": len(libraries)},
        facts={"width": bank.width, "model": bank.model, "nearest": bank.nearest},
        did_work=did_work,
    )


def _libraries(paths: Sequence[str]) -> dict[str, list[str]]:
    from engine.retrieval.annotation.vocabulary import read_libraries

    libraries: dict[str, list[str]] = {}
    for path in paths:
        found = (
            {Path(path).stem: _lines(path)}
            if path.endswith(".txt")
            else {library: [term.name for term in terms] for library, terms in read_libraries([path]).items()}
        )
        clash = sorted(set(found) & set(libraries))
        if clash:
            raise InputError(f"--terms {path}: library {clash[0]!r} was given by another file already.")
        libraries |= found
    return libraries


def _lines(path: str) -> list[str]:
    """Distinct terms of a text file, one a line; what follows a # at the start of a line is a comment."""
    try:
        lines = [line.strip() for line in Path(path).expanduser().read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--terms {path}: cannot be read ({error}); expected UTF-8 text, a term a line."
        ) from error
    terms = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not terms:
        raise InputError(f"--terms {path}: holds no term; expected one a line.")
    return terms


def main(argv: Sequence[str] | None = None) -> int:
    return launch("phrases", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
