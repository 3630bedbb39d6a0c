"""`syncytium train-chat`: a language model that reads cells, from conversations about them."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from jobs.anatomy import Outcome, ProgressLine, launch
from jobs.anatomy.training import TrainingFlags, train_job
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.training.options import TrainingOptions
    from engine.training.recipes.chat import ChatRecipe


@dataclass(kw_only=True)
class ConversationFlags:
    """What to learn from."""

    conversations: str
    """JSON array, or one record a line, in LLaVA's format; or the directory that `conversations` made."""
    joint: str
    """Joint model in whose space the cells' vectors are."""
    cells: str | None = None
    """Cell store with the cells that the conversations name."""
    embeddings: str | None = None
    """Instead: their embeddings, as `embed --model JOINT` writes them. Neither is needed where the
    conversations hold vectors."""
    held_out_share: float = 0.1
    """Share of the cells to judge by, with all conversations about them; 0: none."""


@dataclass(kw_only=True)
class ModelFlags:
    """Projector, language model, and what of them learns."""

    language_model: str | None = None
    """Directory of a causal language model of transformers (safetensors). Default: that of --start."""
    start: str | None = None
    """Chat model to go on with, as train-chat or convert wrote it: what the second stage begins with."""
    stage: Literal["projector", "full"] = "projector"
    """projector: the language model stays as it is. full: both learn."""
    lora: int = 0
    """Rank of LoRA through which the language model learns in the full stage; 0: all of its weights."""
    soft_tokens: int = 8
    """Tokens that stand for one selection of cells."""
    hidden_width: int = 1024
    """Of the projector's hidden layer; CellWhisperer's is tokens times the width of the language model."""
    template: Literal["mistral", "chatml", "llama3"] | None = None
    """How turns are written. Default: what the tokeniser knows."""
    max_tokens: int = 2048
    """Tokens of a conversation; the last exchanges of a longer one are left out."""
    recompute: bool = False
    """Less memory for more time: the language model's activations are computed twice (full stage)."""


@dataclass(kw_only=True)
class ChatTrainingFlags(TrainingFlags):
    """How to train, and where."""

    steps: int = 0
    """Optimiser steps. 0: as many as make up --epochs."""
    epochs: float = 1.0
    """Passes over the conversations."""
    batch_conversations: int | None = None
    """Conversations of one optimiser step over all workers. Default: 256 for the projector, 128 for full."""
    judge_every: int | None = None
    """Steps between judgements on the held-out cells. Default: a tenth of the steps."""
    patience: int = 0
    """Judgements without a better one after which training ends; 0: never."""


@dataclass(kw_only=True)
class Options(ConversationFlags, ModelFlags, ChatTrainingFlags):
    """Train a chat model: serve it with `serve --chat`.

    First --stage projector, then --stage full --start its output. The checkpoint that does best on the
    held-out cells is the model that is written.
    """

    GROUPS: ClassVar[dict[str, type]] = {
        "conversations": ConversationFlags,
        "model": ModelFlags,
        "training": ChatTrainingFlags,
    }


# CellWhisperer's, per stage: batch, peak learning rate. Its warm-up is 3 % of the steps, its decay a cosine.
STAGES = {"projector": (256, 1e-4), "full": (128, 2e-5)}
WARMUP = 0.03


def run(options: Options) -> Outcome:
    from engine import ray_session
    from engine.training import output as outputs
    from engine.training.recipes.chat import make_embeddings

    output = options.output_location
    recipe, training, counts = _planned(options)
    if outputs.is_finished(output, recipe, training, overwrite=options.overwrite):
        return _outcome(options, recipe, training, counts)
    with ray_session.connect(options.address) if training.workers else nullcontext():
        outputs.begin(output, recipe, training, overwrite=options.overwrite)
        report = ProgressLine("train-chat: cells")
        make_embeddings(
            recipe, str(options.cells), options.joint, output, address=options.address, report=report
        )
        # What was there is gone by now, and the embeddings belong to this run.
        return _outcome(replace(options, overwrite=False), recipe, training, counts)


def _outcome(
    options: Options, recipe: "ChatRecipe", training: "TrainingOptions", counts: dict[str, int]
) -> Outcome:
    from engine.training.output import read_end

    outcome = train_job("train-chat", options, recipe, training)
    outcome.counts_in = counts
    end = read_end(options.output_location)
    outcome.facts |= {"published_step": end["published_step"], "published": end["published"]}
    return outcome


def _planned(options: Options) -> tuple["ChatRecipe", "TrainingOptions", dict[str, int]]:
    from engine.training.recipes.chat import Sizes, plan

    planned = plan(
        options.conversations,
        options.joint,
        options.language_model,
        options.output_location,
        cells=options.cells,
        embeddings=options.embeddings,
        max_cells=options.max_cells,
        stage=options.stage,
        lora=options.lora,
        start=options.start,
        sizes=Sizes(options.soft_tokens, options.hidden_width, options.template, options.max_tokens),
        held_out_share=options.held_out_share,
        split_seed=options.seed,
        precision=options.precision,
        recompute=options.recompute,
        patience=options.patience,
    )
    training = _training(options, planned.n_learnt)
    recipe = replace(planned.recipe, judge_every=options.judge_every or max(training.steps // 10, 1))
    counts = {"conversations": planned.n_learnt, "held_out_conversations": planned.n_held_out}
    return recipe, training, counts


def _training(options: Options, n_learnt: int) -> "TrainingOptions":
    usual, lr = STAGES[options.stage]
    parts = max(options.workers, 1) * options.accumulation
    batch = options.batch_conversations or min(usual, max(n_learnt // parts, 1) * parts)
    if options.epochs <= 0:
        raise InputError(f"--epochs is {options.epochs}; it must be more than 0.")
    steps = options.steps or math.ceil(options.epochs * n_learnt / batch)
    warmup = round(WARMUP * steps) if options.warmup_steps is None else options.warmup_steps
    return replace(options, steps=steps, warmup_steps=warmup).training_options(
        batch=batch, lr=lr, decay="cosine"
    )


def main(argv: Sequence[str] | None = None) -> int:
    return launch("train-chat", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
