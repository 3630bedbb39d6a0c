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
from jobs.demo_text import minilm_directory
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
    joint_width: int
    joint_steps: int


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
    joint_width=128,
    joint_steps=400,
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
    joint_width=32,
    joint_steps=40,
)

# What the demo looks for in words, and the cell type it should find.
QUESTIONS = {
    "natural killer cell": "CD56+ NK",
    "CD19+ B cell -dendritic": "CD19+ B",
    "monocyte": "CD14+ Monocyte",
}


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
        Step(
            "enrichment",
            "enrich",
            "asks which cell types' marker genes a feature's genes are, beside shuffled genes",
            _flags(
                features=folder / "features",
                gmt=folder / "markers.gmt",
                permutations=20,
                seed=seed,
                output=folder / "enrichment",
            ),
        ),
        Step(
            "site",
            "dashboard",
            "makes pages to look through all features",
            _flags(features=folder / "features", enrichment=folder / "enrichment", output=folder / "site"),
        ),
        Step(
            "joint",
            "train-joint",
            "learns one space for cells and for the words that describe them, from half of the cells",
            _flags(
                cells=cells,
                caption="a {cell_type} cell",
                cell_tower=encoder,
                text_tower=minilm_directory(),
                locking="LL",
                dims=sizes.joint_width,
                held_out_share=0.5,
                steps=sizes.joint_steps,
                seed=seed,
                output=folder / "joint",
            ),
        ),
        Step(
            "index",
            "index",
            "embeds the cells in that space and makes them searchable",
            _flags(cells=cells, joint=folder / "joint", calibrate="cell_type", output=folder / "index"),
        ),
        Step(
            "phrases",
            "phrases",
            "embeds what cells may be called",
            _flags(terms=folder / "cell_types.txt", joint=folder / "joint", output=folder / "phrases"),
        ),
    ]


def run(options: Options) -> Outcome:
    from engine import ray_session
    from jobs.demo_cells import write_demo_cells, write_words
    from jobs.demo_page import write_page

    folder = _local_folder(options)
    sizes = SMALL if options.small else FULL
    write_demo_cells(folder / "pbmc68k.h5ad")
    write_words(folder / "pbmc68k.h5ad", folder / "cell_types.txt", folder / "markers.gmt")
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
    found = {question: _search(folder, question, wanted) for question, wanted in QUESTIONS.items()}
    _say_end(folder)
    did_work = page.did_work or any(record["did_work"] for record in records.values())
    return Outcome(
        lineage=page.lineage,
        counts_in={"cells": page.n_cells},
        counts_out={"features": page.n_features},
        facts={
            "steps": {name: _summary(record) for name, record in records.items()},
            **page.measures,
            "found": found,
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


def _search(folder: Path, question: str, wanted: str) -> float:
    """Asks the index in words; the share of the ten best cells that are of the type wanted."""
    from jobs import search

    flags = ("--index", str(folder / "index"), "--query", question)
    print(f"\n      $ {shlex.join(['syncytium', 'search', *flags])}", file=sys.stderr)
    record = execute("search", parse("search", search.Options, flags), search.run)
    hits = record["facts"]["hits"]
    share: float = sum(hit["obs"]["cell_type"] == wanted for hit in hits) / max(len(hits), 1)
    print(f"      {share:.0%} of the {len(hits)} cells found are {wanted}", file=sys.stderr)
    return share


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
    --features {folder}/features --sae {folder}/autoencoder

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
