"""`syncytium train-sae`: a sparse autoencoder on activations, from a cache or straight from an encoder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.anatomy import Outcome, launch
from jobs.anatomy.training import TrainingFlags, train_job
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.training.activation_sources import ActivationSource

AVAILABLE = ("topk",)


@dataclass(kw_only=True)
class Options(TrainingFlags):
    """Train a sparse autoencoder and write it as a SAELens directory that takes raw activations.

    Activations come from --cache, or without disk from --cells, --model and --hook. --lr defaults to
    2e-4 * sqrt(16384 / width), constant until the last fifth of the run, then linear to 0.
    """

    cache: str | None = None
    """Activation cache, as `cache` writes it."""
    cells: str | None = None
    """Cell store to encode while training, instead of a cache."""
    model: str | None = None
    """Encoder directory, with --cells."""
    hook: str | None = None
    """Hook point, e.g. resid_post_6. Default with --cache: its only one."""
    arch: Literal["topk", "batchtopk", "jumprelu", "matryoshka", "gated", "standard"] = "topk"
    """Architecture."""
    width: int
    """Features (d_sae)."""
    k: int = 32
    """Features active per token."""
    batch_tokens: int = 4096
    """Tokens of one optimiser step, over all workers."""
    dead_tokens: int | None = None
    """Tokens without activity after which a feature is revived. Default: 10 million, or 2 % of the run."""
    aux_coefficient: float = 1.0
    """Weight of the loss that revives dead features (AuxK); 0 = leave them dead."""
    tokens_per_cell: int | None = None
    """With --cells: train on a random sample of so many tokens of each cell. Default: all its genes."""
    max_tokens: int | None = None
    """With --cells: tokens kept of a longer cell when encoding. Default: the model's own limit."""
    actors: int | None = None
    """With --cells: encoders that feed the workers. Default: as many as the workers leave room for."""


def run(options: Options) -> Outcome:
    from engine.training.recipes.sae import SparseRecipe

    if options.arch not in AVAILABLE:
        raise InputError(
            f"--arch {options.arch} is not available in this version; available: {', '.join(AVAILABLE)}."
        )
    _ = options.output_location
    training = options.training_options(
        batch=options.batch_tokens, lr=2e-4 * math.sqrt(16384 / options.width), decay="linear", decay_from=0.8
    )
    source = _source(options)
    if not 0 < options.k <= options.width:
        raise InputError(f"--k {options.k}: give 1 to --width ({options.width}).")
    run_tokens = options.steps * options.batch_tokens
    recipe = SparseRecipe(
        source=source,
        width=options.width,
        k=options.k,
        dead_after_tokens=options.dead_tokens or max(min(10_000_000, run_tokens // 50), options.batch_tokens),
        aux_coefficient=options.aux_coefficient,
    )
    outcome = train_job("train-sae", options, recipe, training)
    outcome.counts_out |= {"features": options.width}
    return outcome


def _source(options: Options) -> "ActivationSource":
    from engine.training.activation_sources import CachedActivations, StreamedActivations

    if options.actors is not None and (options.actors < 1 or not options.workers):
        raise InputError(
            f"--actors {options.actors}: give at least 1, and --workers of at least 1: with --workers 0 the "
            "one process encodes by itself."
        )
    streaming = [flag for flag in ("cells", "model") if getattr(options, flag)]
    if options.cache and streaming:
        raise InputError(f"--cache and --{streaming[0]}: give one or the other.")
    if options.cache:
        if options.max_cells or options.tokens_per_cell or options.max_tokens:
            raise InputError(
                "--max-cells, --tokens-per-cell and --max-tokens were decided when the cache was written; "
                "leave them out with --cache."
            )
        if options.actors:
            raise InputError("--actors: a cache needs no encoders; leave it out with --cache.")
        return CachedActivations.plan(options.cache, options.hook)
    if not (options.cells and options.model and options.hook):
        raise InputError("give --cache CACHE, or --cells STORE with --model DIR and --hook NAME.")
    return StreamedActivations.plan(
        options.cells,
        options.model,
        options.hook,
        tokens_per_cell=options.tokens_per_cell,
        max_tokens=options.max_tokens,
        precision=options.precision,
        max_cells=options.max_cells,
        actors=options.actors,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return launch("train-sae", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
