"""`syncytium train-joint`: cells and texts in one space, from a cell store with captions and two towers."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jobs.anatomy import Outcome, ProgressLine, comma_separated, launch
from jobs.anatomy.training import TrainingFlags, train_job
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.training.options import TrainingOptions
    from engine.training.recipes.joint import JointRecipe, Preset


@dataclass(kw_only=True)
class PairFlags:
    """What to learn from."""

    cells: str
    """Cell store, as `ingest` writes it."""
    caption: str | None = None
    """Obs column with the cells' captions, or a template: "{cell_type} from {tissue}, {disease}"."""
    captions: str | None = None
    """Instead: parquet file of cells and captions, or the directory that `captions` made."""
    leave_out: str | None = None
    """COLUMN=VALUE,VALUE: cells to learn nothing from, e.g. cell_type=unknown."""
    hold_out: str | None = None
    """COLUMN=VALUE,VALUE: cells to judge by, e.g. donor=101."""
    split_by: str | None = None
    """Obs column whose values are held out as a whole, as many as make up --held-out-share."""
    held_out_share: float = 0.1
    """Share of the cells to judge by, at random without --split-by or --hold-out; 0: none."""
    balance: str | None = None
    """Obs column whose labels are drawn more evenly than they occur. Default: every cell as often."""
    balance_temperature: float = 2.0
    """A label of n cells is drawn in proportion to n^(1/temperature): 1 as it occurs, inf all alike."""
    thinning: float = 1.0
    """Show a cell tower that learns each cell as if sequenced less deeply: a random share of its molecules,
    from this one up. 1: all of them."""
    sample_weights: Literal["none", "radius"] = "none"
    """radius: cells and captions in crowded places count less, as in CellWhisperer (needs a locked tower)."""


@dataclass(kw_only=True)
class ModelFlags:
    """Towers, heads and which of them learn."""

    cell_tower: str
    """Encoder directory: official Tahoe-x1 or Geneformer as downloaded, or one of ours."""
    text_tower: str
    """Directory of a BERT, DistilBERT, RoBERTa, ELECTRA or MPNet model on this machine."""
    preset: Literal["default", "cellwhisperer", "lingocell"] = "default"
    """Recipe for what no flag says: ours, CellWhisperer's first model or LingoCell's."""
    head: Literal["residual", "sphere"] | None = None
    """Projection heads. Default: the preset's."""
    dims: str | None = None
    """Matryoshka widths, e.g. 512,256,128,64; the largest is the width of the space. Default: the
    preset's."""
    locking: str | None = None
    """Two letters, cell tower then text tower. L: locked. U: pretrained, learns after the heads' warm-up.
    u: from random numbers. Default: the preset's."""
    cell_lora: int = 0
    """Rank of LoRA through which a cell tower marked U learns; 0: all of its weights."""
    text_lora: int = 0
    """The same of the text tower."""
    cell_layer: int | None = None
    """Block whose output is the cells' feature. Default: the tower's convention."""
    cell_pool: Literal["cls", "mean"] | None = None
    """How it is pooled. Default: the tower's convention."""
    max_tokens: int | None = None
    """Tokens kept of a longer cell. Default: the tower's own limit."""
    max_text_tokens: int = 128
    """Tokens read of a text."""
    cell_features: str | None = None
    """Embeddings of these cells by this tower, as `embed` writes them. Default: computed once, and kept
    under OUTPUT/features."""
    standardise: bool | None = None
    """Bring features to mean 0 and deviation 1 before the heads. Default: the preset's."""


@dataclass(kw_only=True)
class ObjectiveFlags:
    """How pairs are judged."""

    loss: Literal["infonce", "siglip"] | None = None
    """Default: the preset's."""
    positives: Literal["distinct", "caption", "pair"] | None = None
    """caption: all pairs of a caption are each other's. pair: a cell's own text alone. distinct: as caption,
    and a caption is one candidate however many cells of a batch have it. Default: the preset's."""
    batch_pairs: int | None = None
    """Pairs of one optimiser step over all workers, all of them each other's negatives. Default: the
    preset's, or what a small store allows."""
    chunk: int = 64
    """Pairs that a tower computes at once; the gradient is that of the whole batch. 0: all at once."""
    learn_temperature: bool | None = None
    """Default: the preset's."""
    largest_scale: float | None = None
    """What 1/temperature may grow to; 0 for no limit. Default: the preset's."""


@dataclass(kw_only=True)
class JointTrainingFlags(TrainingFlags):
    """How to train, and where."""

    steps: int = 0
    """Optimiser steps. 0: as many as make up --epochs."""
    epochs: float | None = None
    """Passes over the cells. Default: the preset's."""
    tower_lr: float | None = None
    """Peak learning rate of towers that learn. Default: --lr."""
    projection_steps: int | None = None
    """First steps in which only the heads learn. Default: the preset's share."""
    judge_every: int | None = None
    """Steps between judgements on the held-out cells. Default: a fiftieth of the steps, at least 20."""
    patience: int = 10
    """Judgements without a better one after which training ends; 0: never."""


@dataclass(kw_only=True)
class Options(PairFlags, ModelFlags, ObjectiveFlags, JointTrainingFlags):
    """Train a joint model of cells and texts: index it, search it, annotate with it.

    The checkpoint that does best on the held-out cells is the model that is written.
    """

    GROUPS: ClassVar[dict[str, type]] = {
        "pairs": PairFlags,
        "model": ModelFlags,
        "objective": ObjectiveFlags,
        "training": JointTrainingFlags,
    }


# The loss, and so negatives, are of a batch; a store of fewer cells has smaller batches.
FEWEST_BATCHES = 4
LEAST_STEPS = 200


def run(options: Options) -> Outcome:
    from engine import ray_session
    from engine.training import output as outputs
    from engine.training.recipes.joint import PRESETS, make_features

    output = options.output_location
    preset = PRESETS[options.preset]
    recipe, training, counts = _planned(options, preset)
    if outputs.is_finished(output, recipe, training, overwrite=options.overwrite):
        return _outcome(options, recipe, training, counts)
    with ray_session.connect(options.address) if training.workers else nullcontext():
        outputs.begin(output, recipe, training, overwrite=options.overwrite)
        make_features(recipe, output, address=options.address, report=ProgressLine("train-joint: features"))
        # What was there is gone by now, and the features belong to this run.
        return _outcome(replace(options, overwrite=False), recipe, training, counts)


def _outcome(
    options: Options, recipe: "JointRecipe", training: "TrainingOptions", counts: dict[str, int]
) -> Outcome:
    from engine.training.output import read_end

    outcome = train_job("train-joint", options, recipe, training)
    outcome.counts_in = counts
    outcome.counts_out["pairs"] = outcome.counts_out.pop("tokens")
    outcome.throughput["pairs_per_second"] = outcome.throughput.pop("tokens_per_second")
    end = read_end(options.output_location)
    outcome.facts |= {"published_step": end["published_step"], "published": end["published"]}
    return outcome


def _planned(options: Options, preset: "Preset") -> tuple["JointRecipe", "TrainingOptions", dict[str, int]]:
    from engine.captions import CaptionSource
    from engine.models.joint import ObjectiveOptions
    from engine.training.recipes.joint import Split, Values, plan, require_features

    if options.accumulation > 1:
        raise InputError(
            "--accumulation: negatives are those of one batch; leave it at 1, and lower --chunk for less "
            "memory."
        )
    dims = _dims(options.dims) or preset.dims
    largest = preset.largest_scale if options.largest_scale is None else options.largest_scale
    learn = preset.learn_scale if options.learn_temperature is None else options.learn_temperature
    standardise = preset.standardise if options.standardise is None else options.standardise
    lr = options.lr or preset.lr
    planned = plan(
        options.cells,
        CaptionSource(options.caption, options.captions),
        options.cell_tower,
        options.text_tower,
        options.output_location,
        cell_features=options.cell_features,
        weigh_by_radius=options.sample_weights == "radius",
        max_cells=options.max_cells,
        width=dims[-1],
        dims=dims,
        head=options.head or preset.head,
        locking=options.locking or preset.locking,
        **_same(
            options, "cell_lora", "text_lora", "cell_layer", "cell_pool", "max_tokens", "max_text_tokens"
        ),
        **_same(options, "balance", "balance_temperature", "thinning", "patience"),
        objective=ObjectiveOptions(
            kind=options.loss or preset.loss,
            positives=options.positives or preset.positives,
            learn_scale=learn,
            largest_scale=largest or None,
            chunk=options.chunk,
        ),
        standardise=standardise,
        tower_speed=(options.tower_lr or lr) / lr,
        leave_out=(Values.parse(options.leave_out, "--leave-out"),) if options.leave_out else (),
        split=Split(
            Values.parse(options.hold_out, "--hold-out") if options.hold_out else None,
            options.split_by,
            options.held_out_share,
        ),
        split_seed=options.seed,
        token_seed=options.seed,
    )
    if options.cell_features:
        require_features(planned.recipe, options.cell_features)
    training = _training(options, preset, planned.n_learnt)
    projection = options.projection_steps
    recipe = replace(
        planned.recipe,
        projection_steps=round(preset.projection_warmup * training.steps)
        if projection is None
        else projection,
        judge_every=options.judge_every or max(20, training.steps // 50),
    )
    counts = {"cells": planned.n_learnt, "held_out_cells": planned.n_held_out}
    return recipe, training, counts


def _training(options: Options, preset: "Preset", n_learnt: int) -> "TrainingOptions":
    workers = max(options.workers, 1)
    most = max(n_learnt // FEWEST_BATCHES // workers, 1) * workers
    batch = options.batch_pairs or min(preset.batch, most)
    if batch // workers < 1 or batch < 2:
        raise InputError(
            f"a batch of {batch} pairs: contrastive training needs at least 2, and one a worker."
        )
    epochs = options.epochs or preset.epochs
    steps = options.steps or max(math.ceil(epochs * n_learnt / batch), 0 if options.epochs else LEAST_STEPS)
    warmup = round(preset.warmup * steps) if options.warmup_steps is None else options.warmup_steps
    return replace(options, steps=steps, warmup_steps=warmup).training_options(
        batch=batch,
        lr=preset.lr,
        decay=preset.decay,
        final_fraction=preset.final_fraction,
        betas=preset.betas,
    )


def _same(options: Options, *names: str) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in fields(options) if field.name in names}


def _dims(given: str | None) -> tuple[int, ...]:
    """In any order; the largest is the whole width."""
    try:
        return tuple(sorted({int(dim) for dim in comma_separated(given or "")}))
    except ValueError:
        raise InputError(f"--dims {given}: expected whole numbers, e.g. 512,256,128,64.") from None


def main(argv: Sequence[str] | None = None) -> int:
    return launch("train-joint", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
