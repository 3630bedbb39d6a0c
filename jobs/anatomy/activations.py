"""The flags that say which activations to train a sparse autoencoder on, and the source they mean."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.anatomy.training import TrainingFlags
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.training.activation_sources import ActivationSource

# Batches' worth of cells that must be shuffled together; see specs/sae.md section 5 for what less costs.
FEWEST_BATCHES = 8


@dataclass(kw_only=True)
class ActivationFlags:
    """What to train on: --cache, or without disk --cells with --model and --hook."""

    cache: str | None = None
    """Activation cache, as `cache` writes it; of a crosscoder of several models a list, A,B, of one cell
    store."""
    cells: str | None = None
    """Cell store to encode while training, instead of a cache."""
    model: str | None = None
    """Encoder directory, with --cells."""
    hook: str | None = None
    """Hook point, e.g. resid_post_6; of a crosscoder a list, A,B. Default with --cache: its only one."""
    token_class: Literal["gene", "cell", "special", "all"] = "gene"  # noqa: S105 - no password
    """Tokens to train on: of genes, of cells (<cls>), other special ones. All but gene need a cache that was
    made with --special-tokens."""
    batch_tokens: int = 4096
    """Tokens of one optimiser step, over all workers."""
    tokens_per_cell: int | None = None
    """With --cells: train on a random sample of so many tokens of each cell. Default: all its genes."""
    max_tokens: int | None = None
    """With --cells: tokens kept of a longer cell when encoding. Default: the model's own limit."""
    shuffle_shards: int | None = None
    """With --cache: shards shuffled together. Default: enough for 32 batches' worth of cells, at least 4."""
    outlier_norm: float = 10.0
    """Leave out tokens whose norm is above so many medians (massive activations); 0 = keep all."""
    gene_residual: bool = False
    """Train on activations minus their gene's mean: what a gene's token says about its cell. The means lie
    beside the autoencoder, which takes such residuals."""
    actors: int | None = None
    """With --cells: encoders that feed the workers. Default: as many as the workers leave room for."""


@dataclass(kw_only=True)
class TrainingActivations(ActivationFlags, TrainingFlags):
    """With what else decides how activations are made."""


def source_of(options: "TrainingActivations") -> "ActivationSource":
    """Where they come from, as the flags say. Raises InputError before anything is written."""
    from engine.training.activation_sources import CachedActivations, StreamedActivations

    if options.actors is not None and (options.actors < 1 or not options.workers):
        raise InputError(
            f"--actors {options.actors}: give at least 1, and --workers of at least 1: with --workers 0 the "
            "one process encodes by itself."
        )
    if options.shuffle_shards is not None and options.shuffle_shards < 1:
        raise InputError(f"--shuffle-shards {options.shuffle_shards}: give at least 1.")
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
        return CachedActivations.plan(
            options.cache,
            options.hook,
            kept_class=options.token_class,
            batch=options.batch_tokens,
            shards_in_buffer=options.shuffle_shards,
        )
    if not (options.cells and options.model and options.hook):
        raise InputError("give --cache CACHE, or --cells STORE with --model DIR and --hook NAME.")
    if options.token_class != "gene" or options.shuffle_shards:  # noqa: S105 - no password
        raise InputError(
            "--token-class and --shuffle-shards: belong to --cache; encoders that feed the training give "
            "tokens of genes. Write a cache first, with `cache --special-tokens`."
        )
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


def warn_of_few_cells(source: "ActivationSource", batch: int) -> None:
    """Warns where batches are made of few cells: their tokens resemble each other."""
    shuffled = source.shuffled_tokens(batch) / batch
    if shuffled < FEWEST_BATCHES:
        print(
            f"train-sae: warning: only {shuffled:.1f} batches' worth of cells are shuffled together (32 are "
            f"good, below {FEWEST_BATCHES} features of cells are lost): lower --batch-tokens, raise "
            "--shuffle-shards, or use more cells.",
            file=sys.stderr,
        )
