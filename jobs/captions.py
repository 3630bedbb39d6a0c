"""`syncytium captions`: what is said of each cell, from its metadata, by a template or a language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.captions.run import Template, Writer


@dataclass(kw_only=True)
class Options(JobOptions):
    """Write captions of cells for `train-joint --captions`. Every combination of metadata is captioned once.

    With --template they are filled in; with --endpoint a language model behind any OpenAI-compatible address
    writes them, and a run that was interrupted asks only for what is missing.
    """

    cells: str
    """Cell store, as `ingest` writes it."""
    template: str | None = None
    """Caption with obs columns in braces: "{cell_type} from {tissue}, {disease}"."""
    endpoint: str | None = None
    """Address of the API, e.g. http://localhost:8000/v1."""
    model: str | None = None
    """Name of the model there."""
    columns: str | None = None
    """Obs columns that the model is shown, e.g. cell_type,tissue,disease."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, if the endpoint wants one. It is recorded nowhere."""
    instructions: str | None = None
    """File with other instructions than ours for the model."""
    together: int = 8
    """Combinations in one call."""
    concurrency: int = 4
    """Calls at once."""
    temperature: float = 0.0
    """Of the model."""
    retries: int = 5
    """Calls after the first before a combination is given up."""
    timeout: float = 120.0
    """Seconds of one call."""


def run(options: Options) -> Outcome:
    from engine.captions.run import make_captions

    output = options.output_location
    report = make_captions(
        options.cells,
        _template(options) if options.template else _writer(options),
        output,
        max_cells=options.max_cells,
        overwrite=options.overwrite,
        address=options.address,
        progress=ProgressLine("captions"),
    )
    return Outcome(
        lineage=report.snapshot.lineage_id,
        counts_in={"cells": report.n_cells, "combinations": report.n_combinations},
        counts_out={"captions": report.n_combinations},
        facts={"combinations_resumed": report.n_resumed},
        did_work=report.did_work,
    )


def _template(options: Options) -> "Template":
    from engine.captions.run import Template

    given = [name for name in ("endpoint", "model", "columns", "instructions") if getattr(options, name)]
    if given:
        raise InputError(f"--template and --{given[0]}: give one way to write captions.")
    return Template(str(options.template))


def _writer(options: Options) -> "Writer":
    from engine.captions.endpoint import Endpoint
    from engine.captions.run import Writer, key_from
    from engine.captions.writing import INSTRUCTIONS

    missing = [name for name in ("endpoint", "model", "columns") if not getattr(options, name)]
    if missing:
        raise InputError(
            f"--{missing[0]} is missing: give --template TEXT, or --endpoint URL, --model NAME and --columns."
        )
    for name in ("together", "concurrency"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} is {getattr(options, name)}; it must be at least 1.")
    if options.retries < 0 or options.timeout <= 0:
        raise InputError("--retries must be at least 0 and --timeout more than 0.")
    key = key_from(options.key_variable)
    return Writer(
        Endpoint(str(options.endpoint), str(options.model), key, options.retries, options.timeout),
        comma_separated(str(options.columns)),
        together=options.together,
        temperature=options.temperature,
        seed=options.seed,
        instructions=_read(options.instructions) if options.instructions else INSTRUCTIONS,
        concurrency=options.concurrency,
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise InputError(f"--instructions {path}: cannot be read ({error.strerror}).") from error


def main(argv: Sequence[str] | None = None) -> int:
    return launch("captions", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
