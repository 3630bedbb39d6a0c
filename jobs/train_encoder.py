"""`syncytium train-encoder`: a cell encoder trained on a cell store by its own objective."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jobs.anatomy import Outcome, launch
from jobs.anatomy.training import TrainingFlags, train_job
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.training.recipes.encoder import EncoderRecipe


@dataclass(kw_only=True)
class Options(TrainingFlags):
    """Train a Tahoe-x1 (masked expression) or Geneformer (masked tokens) encoder, from scratch or continued.

    From scratch the vocabulary is the genes of the store; sizes come from --size or from --layers, --d-model
    and --heads. --lr defaults to 1e-4 for Tahoe (cosine to a tenth) and 1e-3 for Geneformer (linear to 0).
    """

    cells: str
    """Cell store, as `ingest` writes it."""
    arch: Literal["tahoe", "geneformer"]
    """Architecture, and with it the objective."""
    model: str | None = None
    """Model directory to continue from. Default: from scratch."""
    size: str | None = None
    """A released model's size: 70m, 1b, 3b (Tahoe) or a Geneformer preset."""
    layers: int | None = None
    """Transformer blocks of a fresh model."""
    d_model: int | None = None
    """Width of a fresh model."""
    heads: int | None = None
    """Attention heads of a fresh model."""
    batch_cells: int = 64
    """Cells of one optimiser step, over all workers."""
    max_tokens: int | None = None
    """Tokens kept of a longer cell. For a fresh model also its limit. Default: the model's own limit."""
    balance: str | None = None
    """Obs column whose labels are drawn more evenly than they occur. Default: every cell as often."""
    balance_temperature: float = 2.0
    """A label of n cells is drawn in proportion to n^(1/temperature): 1 as it occurs, inf all alike."""


# The published recipes: tahoe_x1 (DecoupledAdamW, cosine to 0.1) and Geneformer V1 (AdamW, linear to 0).
SCHEDULES: dict[str, dict[str, Any]] = {
    "tahoe": {"lr": 1e-4, "decay": "cosine", "final_fraction": 0.1, "betas": (0.9, 0.95)},
    "geneformer": {"lr": 1e-3, "decay": "linear"},
}


def run(options: Options) -> Outcome:
    from engine import ray_session
    from engine.training.output import is_finished

    output = options.output_location
    training = options.training_options(batch=options.batch_cells, **SCHEDULES[options.arch])
    recipe = _recipe(options)
    finished = is_finished(output, recipe, training, overwrite=options.overwrite)
    with ray_session.connect(options.address) if recipe.needs_medians and not finished else nullcontext():
        if recipe.needs_medians and not finished:
            recipe = recipe.with_medians(options.address)
        outcome = train_job("train-encoder", options, recipe, training)
    outcome.counts_in = {"cells": recipe.n_cells}
    return outcome


def _recipe(options: Options) -> "EncoderRecipe":
    from engine.training.recipes import encoder

    sizes = {
        "--size": options.size,
        "--layers": options.layers,
        "--d-model": options.d_model,
        "--heads": options.heads,
    }
    given = [flag for flag, value in sizes.items() if value is not None]
    if options.model and given:
        raise InputError(f"{', '.join(given)}: a model given by --model has its own sizes; leave them out.")
    return encoder.plan(
        options.cells,
        options.arch,
        size=None
        if options.model
        else encoder.EncoderSize(
            preset=options.size,
            n_layers=options.layers,
            d_model=options.d_model,
            n_heads=options.heads,
            max_tokens=options.max_tokens,
        ),
        model=options.model,
        max_tokens=options.max_tokens,
        max_cells=options.max_cells,
        balance=options.balance,
        balance_temperature=options.balance_temperature,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return launch("train-encoder", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
