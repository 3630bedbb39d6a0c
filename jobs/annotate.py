"""`syncytium annotate`: cells + joint model -> one h5ad with map, clusters, labels and captions."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.models import Precision
    from engine.retrieval.annotation.inputs import AnnotationInputs
    from engine.retrieval.annotation.run import AnnotationOptions


@dataclass(kw_only=True)
class Options(JobOptions):
    """Write an h5ad that `cellxgene launch` opens: joint embeddings, UMAP, Leiden clusters, zero-shot labels
    with confidence, titles and captions of clusters, top genes, term scores, normalised expression."""

    cells: str
    """Cell store, as `ingest` writes it."""
    joint: str
    """Joint model directory, as `train-joint` or `convert` writes it."""
    labels: str
    """What cells may be called: a file (a label a line, or JSON: label -> ways to say it) or TERM,TERM,..."""
    clusters: bool = True
    """Give clusters titles, captions and the evidence for them."""
    cluster_columns: str | None = None
    """obs columns whose groups get titles too, as COLUMN_label, comma-separated."""
    embeddings: str | None = None
    """The cells' embeddings by this joint model, if `embed` has made them already."""
    terms: str | None = None
    """Term libraries, comma-separated: JSON (library -> terms, or library -> term -> genes) or GMT files."""
    templates: str = "celltype"
    """How labels are put into words: names of templates or texts with {}, separated by |; a label's vectors
    are averaged over them."""
    min_confidence: float = 0.5
    """Probability among the labels below which a cell, or a cluster, is not named."""
    min_cosine: float = -1.0
    """Cosine of cell and label below which it is not named, however unlike the other labels are."""
    top_genes: int = 100
    """Genes listed of each cell."""
    top_genes_as: Literal["rows", "table"] = "rows"
    """rows: obsm["top_genes"] holds rows of var, -1 for none. table: CellWhisperer's table of names, for its
    own server; stock cellxgene opens a file with a table in obsm only beside anndata below 0.11."""
    landmarks: int = 50_000
    """Cells the map and the clusters are computed on; others are placed among their nearest."""
    resolution: float = 1.0
    """Of the Leiden clusters; higher means more of them."""
    title: str | None = None
    """Title shown in CELLxGENE. Default: the store's name and the model's."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What the cell tower computes in. auto: bf16 where the machine this is started on has instructions for
    it (embeddings differ by about 3e-6 in cosine), else fp32; say fp32 or bf16 for the same file anywhere."""
    max_tokens: int | None = None
    """Tokens kept of a longer cell. Default: the model's own limit."""
    batch_tokens: int = 8192
    """Budget of a packed batch."""
    actors: int | None = None
    """At most so many encoders at once. Default: as many as there is room for."""
    threads: int = 1
    """CPU threads of each encoder."""


def run(options: Options) -> Outcome:
    from engine.retrieval.annotation.inputs import AnnotationInputs
    from engine.retrieval.annotation.parts import Tasks
    from engine.retrieval.annotation.run import annotate, lineage_id, remove
    from storage.locations import Location

    started = time.monotonic()
    output = str(options.output_location)
    inputs = AnnotationInputs.open(
        options.cells,
        options.joint,
        options.labels,
        terms=comma_separated(options.terms or ""),
        fields=comma_separated(options.cluster_columns or ""),
        max_cells=options.max_cells,
    )
    wanted = _annotation_options(options, inputs)
    if _is_there(output, lineage_id(inputs, wanted), options.overwrite):
        return Outcome(did_work=False, writes_record=False)
    path, encoding = _embeddings(options, inputs, output)
    made = annotate(
        inputs,
        inputs.embeddings(path),
        wanted,
        output,
        ProgressLine("annotate"),
        tasks=Tasks(address=options.address),
        overwrite=options.overwrite,
    )
    if options.embeddings is None:
        remove(Location.of(path))
    seconds = time.monotonic() - started
    return Outcome(
        lineage=made.lineage_id,
        counts_in={"cells": inputs.n_cells, "genes": inputs.store.n_genes, "labels": len(inputs.labels)},
        counts_out={"cells": inputs.n_cells, "named": made.n_named, "clusters": made.n_clusters},
        throughput={"cells_per_second": round(inputs.n_cells / max(seconds, 1e-9), 3)},
        facts={"landmarks": made.n_landmarks, **encoding},
        writes_record=False,
    )


def _annotation_options(options: Options, inputs: "AnnotationInputs") -> "AnnotationOptions":
    from engine.retrieval.annotation.run import AnnotationOptions

    if options.top_genes < 1 or options.landmarks < 16:
        raise InputError("--top-genes must be at least 1 and --landmarks at least 16.")
    if not 0 <= options.min_confidence <= 1 or options.resolution <= 0:
        raise InputError("--min-confidence must be between 0 and 1 and --resolution above 0.")
    templates = tuple(part.strip() for part in options.templates.split("|") if part.strip())
    inputs.require_templates(templates)
    return AnnotationOptions(
        templates=templates,
        min_confidence=options.min_confidence,
        min_cosine=options.min_cosine,
        n_top=options.top_genes,
        top_genes_table=options.top_genes_as == "table",
        landmarks=options.landmarks,
        resolution=options.resolution,
        clusters=options.clusters,
        title=options.title or "",
        embedded=_embedded(options),
        seed=options.seed,
    )


def _embedded(options: Options) -> str:
    if options.embeddings is None:
        return f"max_tokens {options.max_tokens}, {_precision(options)}, batches of {options.batch_tokens}"
    from storage.embeddings import Embeddings

    return f"dataset {Embeddings.open(options.embeddings).dataset_id}"


def _precision(options: Options) -> "Precision":
    from engine.models import precision_here

    return precision_here(options.precision)


def _is_there(output: str, lineage: str, overwrite: bool) -> bool:
    """Whether just this file exists. Raises InputError for another file that may not be replaced."""
    from engine.retrieval.annotation.run import lineage_of_file
    from storage.h5ad_writing import split_name

    folder, name = split_name(output)
    if overwrite or not folder.exists(name):
        return False
    found = lineage_of_file(output)
    if found == lineage:
        return True
    raise InputError(
        f"--output {output}: holds "
        + ("another file" if found is None else f"an annotation of other inputs or options ({found})")
        + "; give another name, or --overwrite."
    )


def _embeddings(options: Options, inputs: "AnnotationInputs", output: str) -> tuple[str, dict[str, Any]]:
    """Path of the cells' joint embeddings, made beside the output where none are given."""
    if options.embeddings is not None:
        return options.embeddings, {}
    from engine.streaming.joint_embeddings import embed_joint
    from jobs.anatomy.streaming import outcome_of, workers_of

    path = f"{output}.embeddings"
    encoding, stream = embed_joint(
        options.cells,
        options.joint,
        path,
        max_tokens=options.max_tokens,
        precision=_precision(options),
        seed=options.seed,
        batch_tokens=options.batch_tokens,
        workers=workers_of(options.address, options.actors, options.threads),
        max_cells=inputs.n_cells,
        overwrite=options.overwrite,
        report=ProgressLine("annotate"),
    )
    outcome = outcome_of(encoding, stream)
    return path, {"encoding": {**outcome.facts, **outcome.throughput}}


def main(argv: Sequence[str] | None = None) -> int:
    return launch("annotate", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
