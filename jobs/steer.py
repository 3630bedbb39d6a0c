"""`syncytium steer`: what editing features of a sparse autoencoder does to genes and to cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.interpret.inputs import EncodedInputs
    from engine.interpret.steering.design import Kind
    from engine.interpret.steering.run import Request
    from storage.features import FeatureTables

# Each label is a column of every cell and version.
MOST_LABELS = 64


@dataclass(kw_only=True)
class Options(JobOptions):
    """Edit features at the autoencoder's hook point while cells are encoded, and tabulate what changes:
    predicted expression by gene, embeddings by cell, each beside its controls."""

    cells: str
    """Cell store, as `ingest` writes it."""
    model: str
    """Encoder directory: the one the autoencoder was trained on."""
    sae: str
    """Autoencoder directory: SAELens' format, as `train-sae` writes it."""
    edits: str
    """Edits separated by commas, made together: FEATURE:ablate, FEATURE:+3 or FEATURE:-3 (add), FEATURE:=2
    (clamp), FEATURE:*0.5 (scale). E.g. "4711:+3,88:ablate"."""
    separately: bool = False
    """Make every edit an experiment of its own, with its own doses and controls."""
    doses: str = "1"
    """Multiples of the edits, e.g. 0.5,1,2; all of them in one pass. Half an ablation halves the feature."""
    unit: str = "max"
    """What amounts of add and clamp are multiples of: the feature's largest activation (max), a quantile of
    its activations above zero (q0.99), or 1 (absolute)."""
    features: str | None = None
    """Tables of `features` for this autoencoder: units, controls and targets are taken from them. Default:
    from a look at some cells."""
    survey_cells: int = 512
    """Cells looked at for that, and for the directions of --label."""
    mode: Literal["delta", "reconstruction"] = "delta"
    """delta: add what the edit changes, and keep what the autoencoder does not explain. reconstruction: put
    the edited reconstruction in its place, compared with the unedited one."""
    controls: str = "random_feature,noise,wrong_sign"
    """Of each dose: other features of like density; noise of the same norm on every token; the opposite
    edit. none: no controls."""
    random_features: int = 1
    """How many such other features (or sets of them)."""
    targets: str | None = None
    """Genes the edits are meant for (symbols or ids); all others are off target. Default: those the edited
    features fire on most."""
    target_genes: int = 10
    """How many of those, for each feature."""
    hide_targets: bool = False
    """Hide the targets from the encoder, edited or not, as genes are hidden in its training: what it predicts
    of a gene that it sees is easy."""
    on_genes: str | None = None
    """Edit the tokens of these genes only. Default: all genes; special tokens are never edited."""
    label: str | None = None
    """obs column: also tell how far cells move towards each of its values."""
    hook: str | None = None
    """Hook point to edit. Default: the one the autoencoder was trained at."""
    layer: int | None = None
    """Block whose output is pooled to the cell embedding. Default: the model's convention."""
    pool: Literal["cls", "mean"] | None = None
    """How it is pooled. Default: the model's convention."""
    max_tokens: int | None = None
    """Tokens kept of a longer cell. Default: the model's own limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What the encoder computes in."""
    actors: int | None = None
    """At most so many encoders at once. Default: as many as the cluster has room for."""
    threads: int = 1
    """CPU threads of each encoder."""
    batch_tokens: int = 16384
    """Budget of a packed batch, all versions of its cells together. A single cell may exceed it."""


def run(options: Options) -> Outcome:
    from engine.interpret.steering.run import steer_cells
    from jobs.anatomy.streaming import outcome_of, subject_of, workers_of

    output = options.output_location
    workers = workers_of(options.address, options.actors, options.threads)
    request = _request(options)
    inputs, recipe = subject_of(options)
    _require_fit(options, inputs)
    encoding = steer_cells(
        inputs,
        request,
        output,
        recipe=recipe,
        workers=workers,
        tables=_tables(options),
        overwrite=options.overwrite,
        report=ProgressLine("steer"),
    )
    outcome = outcome_of(encoding, inputs.stream)
    facts = encoding.snapshot.facts
    outcome.counts_out = {
        "cells": facts["n_cells"],
        "genes": facts["n_genes"],
        "versions": facts["n_variants"],
    }
    outcome.facts |= {"hook": inputs.hook, "edits": options.edits, "quantities": facts["quantities"]}
    return outcome


def _request(options: Options) -> "Request":
    """What is asked, as far as it can be checked without opening anything."""
    from engine.interpret.steering.edits import Unit, parse_edits
    from engine.interpret.steering.run import Request, SurveyRequest

    for flag, value in (
        ("survey-cells", options.survey_cells),
        ("random-features", options.random_features),
        ("target-genes", options.target_genes),
    ):
        if value < 1:
            raise InputError(f"--{flag} is {value}; it must be at least 1.")
    return Request(
        edits=parse_edits(options.edits, separately=options.separately),
        doses=_doses(options.doses),
        controls=_controls(options.controls),
        n_random=options.random_features,
        unit=Unit.parse(options.unit),
        mode=options.mode,
        separately=options.separately,
        targets=None if options.targets is None else comma_separated(options.targets),
        n_targets=options.target_genes,
        hide_targets=options.hide_targets,
        on_genes=None if options.on_genes is None else comma_separated(options.on_genes),
        survey=SurveyRequest(options.survey_cells, options.layer, options.pool),
    )


def _doses(text: str) -> tuple[float, ...]:
    try:
        doses = tuple(float(part) for part in comma_separated(text))
    except ValueError:
        raise InputError(f"--doses {text}: expected numbers separated by commas, e.g. 0.5,1,2.") from None
    if not doses or len(set(doses)) < len(doses) or not all(abs(dose) < float("inf") for dose in doses):
        raise InputError(f"--doses {text}: expected one or more different, finite numbers.")
    return doses


def _controls(text: str) -> "tuple[Kind, ...]":
    from engine.interpret.steering.design import CONTROLS

    asked = () if text == "none" else comma_separated(text)
    unknown = [name for name in asked if name not in CONTROLS]
    if unknown:
        raise InputError(f"--controls {text}: {unknown[0]!r} is none; there are {', '.join(CONTROLS)}, none.")
    return tuple(kind for kind in CONTROLS if kind in asked)


def _require_fit(options: Options, inputs: "EncodedInputs") -> None:
    model = inputs.stream.model
    model.layer(options.layer)
    if (options.pool or model.default_pool) == "cls" and not model.has_cell_token:
        raise InputError(f"--pool cls: {options.model} has no cell token; use --pool mean.")
    if inputs.label is not None and len(inputs.label.labels) > MOST_LABELS:
        raise InputError(
            f"--label {options.label}: {len(inputs.label.labels):,} different values; shifts are told along "
            f"at most {MOST_LABELS}. Choose a coarser column."
        )


def _tables(options: Options) -> "FeatureTables | None":
    from storage.features import FeatureTables

    return None if options.features is None else FeatureTables.open(options.features)


def main(argv: Sequence[str] | None = None) -> int:
    return launch("steer", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
