"""`syncytium demo`: the whole street on real cells, end to end, and a page to look at."""

import importlib
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.anatomy import JobOptions, Outcome, execute, launch, parse
from storage.errors import InputError


@dataclass(kw_only=True)
class Options(JobOptions):
    """Run every step from counts to features on 700 blood cells that come with scanpy (no download), and make
    OUTPUT/index.html. Minutes on two CPU cores; a second run resumes and finishes in seconds."""

    output: str | None = "demo"
    """Local directory to make."""
    small: bool = False
    """Smaller models, for a quick check that everything works."""


@dataclass(frozen=True)
class Sizes:
    """How large the demo's models are and how long they train."""

    layers: int
    d_model: int
    heads: int
    batch_cells: int
    encoder_steps: int
    encoder_lr: float
    sae_features: int
    sae_active: int
    sae_steps: int
    sae_batch_tokens: int


FULL = Sizes(
    layers=2,
    d_model=128,
    heads=4,
    batch_cells=8,
    encoder_steps=600,
    encoder_lr=3e-3,
    sae_features=512,
    sae_active=16,
    sae_steps=600,
    sae_batch_tokens=2048,
)
SMALL = Sizes(
    layers=2,
    d_model=32,
    heads=2,
    batch_cells=8,
    encoder_steps=40,
    encoder_lr=3e-3,
    sae_features=128,
    sae_active=8,
    sae_steps=60,
    sae_batch_tokens=2048,
)


@dataclass(frozen=True)
class Step:
    """One command of the demo; its output is the folder of OUTPUT that `name` says."""

    name: str
    job: str
    purpose: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> str:
        return shlex.join(["syncytium", self.job, *self.arguments])


def _flags(**values: object) -> tuple[str, ...]:
    """`_flags(d_model=128)` -> ("--d-model", "128")."""
    return tuple(
        part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))
    )


def steps(folder: Path, sizes: Sizes, seed: int) -> list[Step]:
    """The street as commands: what is shown is what is run."""
    cells, encoder, cache, autoencoder = (
        folder / name for name in ("cells", "encoder", "cache", "autoencoder")
    )
    return [
        Step(
            "cells",
            "ingest",
            "checks the counts and writes them as a cell store",
            (str(folder / "pbmc68k.h5ad"), *_flags(gene_id_key="gene_name", output=cells)),
        ),
        Step(
            "encoder",
            "train-encoder",
            "hides half of each cell's genes and learns to tell their counts, from random weights",
            _flags(
                cells=cells,
                arch="tahoe",
                layers=sizes.layers,
                d_model=sizes.d_model,
                heads=sizes.heads,
                batch_cells=sizes.batch_cells,
                steps=sizes.encoder_steps,
                lr=sizes.encoder_lr,
                seed=seed,
                output=encoder,
            ),
        ),
        Step(
            "embeddings",
            "embed",
            "turns every cell into one vector",
            _flags(cells=cells, model=encoder, output=folder / "embeddings"),
        ),
        Step(
            "cache",
            "cache",
            "keeps what the encoder holds for every gene of every cell",
            _flags(cells=cells, model=encoder, hooks=f"resid_post_{sizes.layers - 1}", output=cache),
        ),
        Step(
            "autoencoder",
            "train-sae",
            "takes those activations apart into features, of which few are active at a time",
            _flags(
                cache=cache,
                width=sizes.sae_features,
                k=sizes.sae_active,
                steps=sizes.sae_steps,
                batch_tokens=sizes.sae_batch_tokens,
                seed=seed,
                output=autoencoder,
            ),
        ),
        Step(
            "features",
            "features",
            "finds the genes, cells and cell types each feature responds to",
            _flags(
                sae=autoencoder,
                cache=cache,
                cells=cells,
                label="cell_type",
                # A mean over fewer tokens of a gene is chance.
                min_gene_tokens=10,
                output=folder / "features",
            ),
        ),
    ]


def run(options: Options) -> Outcome:
    from engine import ray_session
    from jobs.demo_cells import write_demo_cells
    from jobs.demo_page import write_page

    folder = _local_folder(options)
    sizes = SMALL if options.small else FULL
    write_demo_cells(folder / "pbmc68k.h5ad")
    plan = steps(folder, sizes, options.seed)
    records = {}
    with ExitStack() as session:
        if not all((folder / step.name / "run.json").exists() for step in plan):
            # One Ray for all steps: each would otherwise start and stop its own.
            session.enter_context(ray_session.connect(options.address))
        for number, step in enumerate(plan, start=1):
            _announce(number, len(plan) + 1, step.job, step.purpose, step.command)
            records[step.name] = _run_step(step, options.overwrite)
    _announce(len(plan) + 1, len(plan) + 1, "page", "draws the cells, the curves and the features", None)
    started = time.monotonic()
    page = write_page(folder, seed=options.seed, overwrite=options.overwrite)
    _say_done("written" if page.did_work else "already complete", time.monotonic() - started)
    _say_end(folder)
    did_work = page.did_work or any(record["did_work"] for record in records.values())
    return Outcome(
        lineage=page.lineage,
        counts_in={"cells": page.n_cells},
        counts_out={"features": page.n_features},
        facts={"steps": {name: _summary(record) for name, record in records.items()}, **page.measures},
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
  cache/         activations, token by token          index.html     the page

Open the page:
  {page.as_uri()}

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
