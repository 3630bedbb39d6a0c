"""`train-sae --arch crosscoder|transcoder|skip_transcoder`: the places that flags mean, and refusals."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from jobs.anatomy import comma_separated
from jobs.anatomy.activations import source_of
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.training.aligned_activations import AlignedSource
    from engine.training.recipes.sae import AlignedRecipe

Flags = TypeVar("Flags", bound=Any)
"""`jobs.train_sae.Options`."""

ALIGNED = ("crosscoder", "transcoder", "skip_transcoder")
# Flags that mean nothing here, with what they are when they are not given.
NOT_OF_THESE: dict[str, Any] = {
    "sweep": None,
    "dry_run": False,
    "gene_residual": False,
    "matryoshka_widths": None,
    "sparsity_coefficient": None,
    "feature_parallel": 1,
}


def require_meant(options: Flags) -> None:
    """Raises InputError for flags that do not go together, before anything is opened."""
    if options.arch not in ALIGNED:
        if options.target_hook:
            raise InputError(
                f"--target-hook {options.target_hook}: belongs to --arch transcoder or skip_transcoder, not "
                f"{options.arch}."
            )
        return
    for flag, absent in NOT_OF_THESE.items():
        if getattr(options, flag) != absent:
            raise InputError(f"--{flag.replace('_', '-')}: not for --arch {options.arch}; leave it out.")
    caches, hooks = _caches(options), comma_separated(options.hook or "")
    if options.arch == "crosscoder":
        if options.target_hook:
            raise InputError(
                "--target-hook: a crosscoder reconstructs what it reads; name all in --hook A,B."
            )
        if len(caches) < 2 and len(hooks) < 2:
            raise InputError(
                f"--arch crosscoder: found {len(hooks)} hook{'s' * (len(hooks) != 1)} of "
                f"{'one cache' if caches else 'one model'}; give --hook A,B with two or more, or --cache A,B."
            )
        if len(caches) > 1 and len(hooks) not in (0, 1, len(caches)):
            raise InputError(
                f"--hook {options.hook}: {len(hooks)} hooks for {len(caches)} caches; give one of each, one "
                "for all, or none where each cache has only one."
            )
        return
    if len(caches) > 1:
        raise InputError(f"--cache {options.cache}: a {options.arch} takes one cache, found {len(caches)}.")
    if len(hooks) != 1 or not options.target_hook:
        raise InputError(
            f"--arch {options.arch}: give --hook IN, which it reads, and --target-hook OUT, which it "
            f"reconstructs; found --hook {options.hook} and --target-hook {options.target_hook}."
        )


def places_of(options: Flags) -> "AlignedSource":
    """The places, from one cache or one encoder pass, or from several caches. Raises InputError."""
    from engine.training.aligned_activations import SeveralCaches, SeveralHooks

    caches, hooks = _caches(options), comma_separated(options.hook or "")
    if len(caches) < 2:
        if options.target_hook:
            hooks = (*hooks, options.target_hook)
        return SeveralHooks(tuple(source_of(replace(options, hook=hook)) for hook in hooks))  # type: ignore[arg-type]
    if options.token_class != "gene":  # noqa: S105 - no password
        raise InputError(
            f"--token-class {options.token_class}: tokens of several caches are aligned by gene; give gene."
        )
    # What else is refused of one cache is refused of several.
    source_of(replace(options, cache=caches[0], hook=hooks[0] if hooks else None))
    named: list[str | None] = list(hooks) if len(hooks) > 1 else [hooks[0] if hooks else None] * len(caches)
    return SeveralCaches.plan(
        caches, named, batch=options.batch_tokens, blocks_in_buffer=options.shuffle_shards
    )


def recipe_of(options: Flags, source: "AlignedSource", *, dead_tokens: int) -> "AlignedRecipe":
    """What is trained on them."""
    from engine.training.recipes.sae import AlignedRecipe

    return AlignedRecipe(
        source=source,
        architecture=options.arch,
        width=int(options.width),
        k=options.k,
        dead_after_tokens=dead_tokens,
        aux_coefficient=options.aux_coefficient,
        anneal_steps=round(options.anneal * options.steps),
        init_seed=options.init_seed,
        outlier_norm=options.outlier_norm,
    )


def _caches(options: Flags) -> list[str]:
    return list(comma_separated(options.cache or ""))
