"""`syncytium evaluate-joint`: how good a joint model is on labelled cells, every number beside baselines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.retrieval.annotation.inputs import AnnotationInputs
    from engine.retrieval.evaluation.inputs import MeasuredCells, Reference
    from engine.retrieval.evaluation.run import JointEvaluationOptions


@dataclass(kw_only=True)
class Options(JobOptions):
    """metrics.json and index.html: recall by class and by pair both ways, zero-shot naming, calibration,
    integration, term scores against gene sets, intervals by donor; beside majority, marker genes, PCA
    neighbours and shuffled captions."""

    cells: str
    """Cell store, as `ingest` writes it; best of cells and donors the model was not trained on."""
    joint: str
    """Joint model directory, as `train-joint` or `convert` writes it."""
    label: str
    """obs column of the true labels."""
    caption: str
    """obs column of the texts that belong to the cells."""
    labels: str | None = None
    """All labels to choose from: a file or TERM,TERM,... Default: those that occur, which is easier."""
    templates: str = "celltype"
    """How labels are put into words: names of templates or texts with {}, separated by |."""
    group: str | None = None
    """obs column of donors, which intervals draw and baselines are cross-fitted over. Default: donor,
    dataset, sample or batch, if there are several."""
    batch: str | None = None
    """obs column of batches that should mix. Default: batch, assay, dataset, sample or donor, if several."""
    reference: str | None = None
    """Cell store with the same label column that baselines learn from, say the cells the model was trained
    on. Default: the other half of the cells measured."""
    terms: str | None = None
    """Gene sets, comma-separated: GMT files, or JSON (library -> term -> genes)."""
    embeddings: str | None = None
    """The cells' embeddings by this joint model, if `embed` has made them already."""
    sample: int = 20_000
    """Cells measured, drawn at random; 0 for all."""
    draws: int = 200
    """Draws of the bootstrap; 0 for no intervals."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What the cell tower computes in."""
    max_tokens: int | None = None
    """Tokens kept of a longer cell. Default: the model's own limit."""
    actors: int | None = None
    """At most so many encoders at once. Default: as many as there is room for."""
    threads: int = 1
    """CPU threads of each encoder."""


def run(options: Options) -> Outcome:
    from engine.retrieval.evaluation.inputs import labelled_rows
    from engine.retrieval.evaluation.run import evaluate, plan

    output = options.output_location
    inputs, wanted = _inputs(options), _evaluation_options(options)
    inputs.require_templates(wanted.templates)
    labelled_rows(inputs, wanted.label, wanted.caption, wanted.group, wanted.batch)
    if options.embeddings is not None:
        inputs.embeddings(options.embeddings)
    reference = _reference(options, inputs)
    dataset = plan(
        inputs,
        wanted,
        _embedded(options),
        reference.described_as if reference else None,
        output,
        overwrite=options.overwrite,
    )
    if dataset.is_complete:
        return Outcome(lineage=dataset.lineage_id, did_work=False)
    cells = _measured(options, inputs, wanted)
    result = evaluate(dataset, inputs, cells, reference, wanted, ProgressLine("evaluate-joint"))
    metrics = result.metrics
    return Outcome(
        lineage=result.snapshot.lineage_id,
        counts_in={"cells": inputs.n_cells, "labels": len(inputs.labels)},
        counts_out={"cells": len(cells), "captions": len(cells.captions)},
        throughput={"cells_per_second": round(len(cells) / max(result.seconds, 1e-9), 3)},
        facts={
            "top_1": metrics["zero_shot"]["top_1"],
            "macro_auroc_raw": metrics["zero_shot"]["macro_auroc_raw"],
            "class_recall@1": metrics["retrieval"]["class"]["text_to_cell"]["recall@1"],
            "class_recall@10": metrics["retrieval"]["class"]["text_to_cell"]["recall@10"],
            "split": metrics["protocol"]["split"],
        },
    )


def _inputs(options: Options) -> "AnnotationInputs":
    from engine.retrieval.annotation.inputs import AnnotationInputs

    return AnnotationInputs.open(
        options.cells,
        options.joint,
        options.labels,
        label_column=options.label,
        terms=comma_separated(options.terms or ""),
        max_cells=options.max_cells,
    )


def _evaluation_options(options: Options) -> "JointEvaluationOptions":
    from engine.retrieval.evaluation.run import JointEvaluationOptions

    if options.sample < 0 or options.draws < 0:
        raise InputError("--sample and --draws must not be negative.")
    return JointEvaluationOptions(
        label=options.label,
        caption=options.caption,
        templates=tuple(part.strip() for part in options.templates.split("|") if part.strip()),
        group=options.group,
        batch=options.batch,
        sample=options.sample or None,
        draws=options.draws,
        seed=options.seed,
    )


def _measured(
    options: Options, inputs: "AnnotationInputs", wanted: "JointEvaluationOptions"
) -> "MeasuredCells":
    from engine.retrieval.evaluation.inputs import MeasuredCells

    path = options.embeddings
    if path is None:
        from engine.streaming.joint_embeddings import embed_joint
        from jobs.anatomy.streaming import workers_of

        # A dataset of its own, so that an interrupted evaluation does not encode again.
        path = f"{options.output_location}/embeddings"
        embed_joint(
            options.cells,
            options.joint,
            path,
            max_tokens=options.max_tokens,
            precision=options.precision,
            seed=options.seed,
            workers=workers_of(options.address, options.actors, options.threads),
            max_cells=inputs.n_cells,
            report=ProgressLine("evaluate-joint"),
        )
    return MeasuredCells.draw(
        inputs,
        inputs.embeddings(path),
        label=wanted.label,
        caption=wanted.caption,
        group=wanted.group,
        batch=wanted.batch,
        sample=wanted.sample,
        seed=wanted.seed,
    )


def _embedded(options: Options) -> str:
    if options.embeddings is None:
        return f"max_tokens {options.max_tokens}, {options.precision}"
    from storage.embeddings import Embeddings

    return f"dataset {Embeddings.open(options.embeddings).dataset_id}"


def _reference(options: Options, inputs: "AnnotationInputs") -> "Reference | None":
    if options.reference is None:
        return None
    from engine.retrieval.evaluation.inputs import Reference

    genes, sample = inputs.store.genes.index, options.sample or None
    return Reference.open(options.reference, options.label, inputs.labels, genes, sample, options.seed)


def main(argv: Sequence[str] | None = None) -> int:
    return launch("evaluate-joint", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
