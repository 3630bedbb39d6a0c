"""`syncytium train-sae`: a sparse autoencoder on activations, from a cache or straight from an encoder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.anatomy import Outcome, comma_separated, launch
from jobs.anatomy.training import TrainingFlags, train_job
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.training.activation_sources import ActivationSource
    from engine.training.recipes.sae import SparseRecipe


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
    """topk, batchtopk, matryoshka: a fixed number of features fires. jumprelu, gated, standard: a penalty
    keeps them few."""
    width: int
    """Features (d_sae)."""
    k: int = 32
    """Features active per token: exactly (topk), on average (batchtopk, matryoshka) or aimed at (jumprelu).
    gated and standard have none: see --sparsity-coefficient."""
    matryoshka_widths: str | None = None
    """Nested prefixes of matryoshka, e.g. 1024,4096. Default: 1/16, 1/8, 1/4 and 1/2 of the width."""
    anneal: float = 0.0
    """Share of the run over which k comes down from a quarter of the activations' width; 0.1 is usual."""
    sparsity_coefficient: float | None = None
    """Weight of the sparsity penalty. Default: 5 (gated, standard; larger is sparser), 1 (jumprelu)."""
    sparsity_warmup: float = 0.05
    """Share of the run over which the sparsity penalty grows from 0."""
    init_seed: int | None = None
    """Seed of the initial weights alone. Default: --seed, which also orders the tokens."""
    batch_tokens: int = 4096
    """Tokens of one optimiser step, over all workers."""
    dead_tokens: int | None = None
    """Tokens without activity after which a feature is revived. Default: 10 million, or 2 % of the run."""
    aux_coefficient: float = 1 / 32
    """Weight of the loss that revives dead features (AuxK); 0 = leave them dead."""
    tokens_per_cell: int | None = None
    """With --cells: train on a random sample of so many tokens of each cell. Default: all its genes."""
    max_tokens: int | None = None
    """With --cells: tokens kept of a longer cell when encoding. Default: the model's own limit."""
    actors: int | None = None
    """With --cells: encoders that feed the workers. Default: as many as the workers leave room for."""


def run(options: Options) -> Outcome:
    _ = options.output_location
    training = options.training_options(
        batch=options.batch_tokens,
        lr=2e-4 * math.sqrt(16384 / options.width),
        decay="linear",
        decay_from=0.8,
        # The loss is a fraction of the variance: its gradients are small, those of rare features smallest.
        epsilon=6.25e-10,
    )
    recipe = _recipe(options, _source(options))
    outcome = train_job("train-sae", options, recipe, training)
    outcome.counts_out |= {"features": options.width}
    return outcome


def _recipe(options: Options, source: "ActivationSource") -> "SparseRecipe":
    from engine.training.recipes.sae import SparseRecipe

    for flag, share in (("anneal", options.anneal), ("sparsity-warmup", options.sparsity_warmup)):
        if not 0 <= share <= 1:
            raise InputError(f"--{flag} {share}: a share of the run, 0 to 1.")
    run_tokens = options.steps * options.batch_tokens
    return SparseRecipe(
        source=source,
        architecture=options.arch,
        width=options.width,
        k=options.k,
        matryoshka_widths=_widths(options.matryoshka_widths),
        dead_after_tokens=options.dead_tokens or max(min(10_000_000, run_tokens // 50), options.batch_tokens),
        aux_coefficient=options.aux_coefficient,
        sparsity_coefficient=options.sparsity_coefficient,
        sparsity_warmup_steps=round(options.sparsity_warmup * options.steps),
        anneal_steps=round(options.anneal * options.steps),
        init_seed=options.init_seed,
    )


def _widths(given: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in comma_separated(given or ""))
    except ValueError:
        raise InputError(f"--matryoshka-widths {given}: expected whole numbers, e.g. 1024,4096.") from None


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
