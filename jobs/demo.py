"""`syncytium demo`: the whole street on real cells, end to end, and a page to look at."""

import importlib
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.anatomy import JobOptions, Outcome, execute, launch, parse
from jobs.demo_steps import FULL, SMALL, Step, steps
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.interpret.page.content import TextSearch


@dataclass(kw_only=True)
class Options(JobOptions):
    """Run every step from counts to features on 700 blood cells that come with scanpy (no download), and make
    OUTPUT/index.html. Minutes on two CPU cores; a second run resumes and finishes in seconds."""

    output: str | None = "demo"
    """Local directory to make."""
    small: bool = False
    """Smaller models, for a quick check that everything works."""


# What the demo looks for in words, and the cell type it should find.
QUESTIONS = {
    "natural killer cell": "CD56+ NK",
    "CD19+ B cell -dendritic": "CD19+ B",
    "monocyte": "CD14+ Monocyte",
}


def run(options: Options) -> Outcome:
    from engine import ray_session
    from jobs.demo_cells import write_cell_types, write_demo_cells
    from jobs.demo_markers import write_markers
    from jobs.demo_page import write_page

    folder = _local_folder(options)
    sizes = SMALL if options.small else FULL
    write_demo_cells(folder / "pbmc68k.h5ad")
    write_cell_types(folder / "pbmc68k.h5ad", folder / "cell_types.txt")
    write_markers(folder / "markers.gmt")
    plan = steps(folder, sizes, options.seed)
    records = {}
    with ExitStack() as session:
        if not all((folder / step.name / "run.json").exists() for step in plan):
            # One Ray for all steps: each would otherwise start and stop its own.
            session.enter_context(ray_session.connect(options.address))
        for number, step in enumerate(plan, start=1):
            _announce(number, len(plan) + 1, step.job, step.purpose, step.command)
            records[step.name] = _run_step(step, options.overwrite)
    searches = [_search(folder, question, wanted) for question, wanted in QUESTIONS.items()]
    _announce(len(plan) + 1, len(plan) + 1, "page", "draws cells, curves, features and answers", None)
    started = time.monotonic()
    held_out = records["joint"]["facts"]["published"]
    page = write_page(
        folder, seed=options.seed, searches=searches, held_out=held_out, overwrite=options.overwrite
    )
    _say_done("written" if page.did_work else "already complete", time.monotonic() - started)
    _say_end(folder)
    did_work = page.did_work or any(record["did_work"] for record in records.values())
    return Outcome(
        lineage=page.lineage,
        counts_in={"cells": page.n_cells},
        counts_out={"features": page.n_features},
        facts={
            "steps": {name: _summary(record) for name, record in records.items()},
            **page.measures,
            "found": {search.question: sum(search.right) / len(search.right) for search in searches},
        },
        did_work=did_work,
    )


def _local_folder(options: Options) -> Path:
    folder = options.output_location.local
    if folder is None:
        raise InputError(f"--output {options.output}: the demo makes a page to open; give a local directory.")
    if options.max_cells is not None:
        raise InputError("--max-cells: the demo has 700 cells and uses all of them; try --small.")
    return folder


def _run_step(step: Step, overwrite: bool) -> dict[str, Any]:
    """The real job, with the options its command line would give it."""
    module = importlib.import_module("jobs." + step.job.replace("-", "_"))
    arguments = [*step.arguments, *(["--overwrite"] if overwrite else [])]
    started = time.monotonic()
    record = execute(step.job, parse(step.job, module.Options, arguments), module.run)
    made = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in record["counts_out"].items())
    _say_done(made if record["did_work"] else f"already complete: {made}", time.monotonic() - started)
    return record


def _search(folder: Path, question: str, wanted: str) -> "TextSearch":
    """Asks the index in words; the ten best cells, and which of them are of the type wanted."""
    from engine.interpret.page.content import TextSearch
    from jobs import search

    flags = ("--index", str(folder / "index"), "--query", question)
    print(f"\n      $ {shlex.join(['syncytium', 'search', *flags])}", file=sys.stderr)
    record = execute("search", parse("search", search.Options, flags), search.run)
    hits = record["facts"]["hits"]
    right = tuple(hit["obs"]["cell_type"] == wanted for hit in hits)
    print(f"      {sum(right)} of the {len(hits)} cells found are {wanted}", file=sys.stderr)
    verdict = record["facts"]["verdict"] or f"none ({record['facts']['no_verdict_because']})"
    return TextSearch(question, wanted, tuple(int(hit["row"]) for hit in hits), right, verdict)


def _summary(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("wall_seconds", "peak_memory_bytes", "counts_out", "throughput")}


def _announce(number: int, total: int, job: str, purpose: str, command: str | None) -> None:
    print(f"\n[{number}/{total}] {job}: {purpose}", file=sys.stderr)
    if command:
        print(f"      $ {command}", file=sys.stderr)
    sys.stderr.flush()


def _say_done(what: str, seconds: float) -> None:
    print(f"      {what} ({seconds:.1f} s)", file=sys.stderr, flush=True)


def _say_end(folder: Path) -> None:
    page = (folder / "index.html").resolve()
    print(
        f"""
Made in {folder}/:
  pbmc68k.h5ad   700 blood cells, raw counts          encoder/       a Tahoe-x1 model directory
  cells/         the cell store                       autoencoder/   a SAELens directory
  embeddings/    anndata.read_zarr opens it           features/      parquet tables and JSON
  cache/         activations, token by token          joint/         a joint model of cells and words
  index/         the cells, searchable in words       site/          pages about every feature
  enrichment/    terms of each feature's genes        index.html     the page

Open the page, and the features' own:
  {page.as_uri()}
  {(folder / "site" / "index.html").resolve().as_uri()}

Search, ask and colour the cells in a browser:
  syncytium serve --index {folder}/index --cells {folder}/cells --phrases {folder}/phrases \\
    --features {folder}/features --sae {folder}/autoencoder --dashboard {folder}/site

Next, with your own h5ad (raw counts):
  syncytium check CELLS.h5ad
  syncytium ingest CELLS.h5ad --output my/cells
  syncytium embed --cells my/cells --model MODEL --output my/embeddings
MODEL is a Tahoe-x1 or Geneformer directory as downloaded. The demo's own encoder knows 765 genes by symbol:
enough to try the commands, not to do biology.""",
        file=sys.stderr,
        flush=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return launch("demo", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
