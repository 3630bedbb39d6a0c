"""What is compared, checked before anything is written: autoencoders, and caches of their activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.interpret.inputs import hook_to_read, require_same_activations
from engine.models import sae
from storage.activations import ActivationCache
from storage.checkpoints import fingerprint, local_copy
from storage.errors import InputError

By = Literal["auto", "decoder", "tokens", "cells"]


@dataclass(frozen=True)
class Source:
    """Where the activations an autoencoder reads are: a cache, and a hook point of it."""

    cache: ActivationCache
    hook: str


@dataclass(frozen=True)
class Compared:
    """One of the autoencoders. model, hook: "" where its directory does not say them; source: None without a
    cache."""

    path: str
    directory: Path
    fingerprint: str
    config: sae.SAEConfig
    model: str
    hook: str
    source: Source | None

    @classmethod
    def open(cls, path: str, caches: Sequence[ActivationCache]) -> Compared:
        """Raises InputError when none of the caches (if any) fits, ModelError for no autoencoder."""
        directory = local_copy(path)
        config = sae.load(directory).config
        model = str(config.metadata.get("model") or "")
        hook = str(config.metadata.get("hook_name") or "")
        source = _source(path, config, caches) if caches else None
        return cls(path, directory, fingerprint(directory), config, model, hook, source)

    @property
    def space(self) -> tuple[str, str, int]:
        """Autoencoders of one space take the same activations."""
        return self.model, self.hook, self.config.d_in

    def identity(self) -> dict[str, object]:
        """For the lineage and for metrics.json."""
        return {
            "fingerprint": self.fingerprint,
            "model": self.model,
            "hook": self.hook,
            "features": self.config.d_sae,
            "cache": self.source.cache.dataset_id if self.source else None,
        }


def way_of(one: Compared, other: Compared, asked: By) -> By:
    """How two autoencoders are compared: `asked`, or for "auto" by decoders in one space, else by tokens.

    Raises InputError when that cannot be done, saying what it takes.
    """
    chosen = asked
    if asked == "auto":
        chosen = "decoder" if one.space == other.space else "tokens"
    if chosen == "decoder":
        if one.config.reconstructs != other.config.reconstructs:
            raise InputError(
                f"--by decoder: {one.path} writes activations of width {one.config.reconstructs}, "
                f"{other.path} of width {other.config.reconstructs}; give --by tokens and --cache."
            )
        return chosen
    for side in (one, other):
        if side.source is None:
            raise InputError(
                f"{one.path} ({_space(one)}) and {other.path} ({_space(other)}) are compared by what they "
                "fire on: give --cache with the activations of each, or --by decoder if they write the same "
                "stream."
            )
    _require_one_store(one, other)
    return chosen


def _require_one_store(one: Compared, other: Compared) -> None:
    stores = [side.source.cache.metadata.get("store") for side in (one, other) if side.source]
    if len(set(stores)) > 1:
        raise InputError(
            f"the caches of {one.path} and {other.path} are of different cells (stores {stores[0]} and "
            f"{stores[1]}); make both from one cell store."
        )


def _source(path: str, config: sae.SAEConfig, caches: Sequence[ActivationCache]) -> Source:
    """The first cache that fits."""
    refusals = []
    for cache in caches:
        where, trained = f"the cache {cache.snapshot.location}", config.metadata.get("hook_name")
        try:
            require_same_activations(path, config, cache.d, cache.metadata.get("model"), where)
            hook = hook_to_read(path, trained, cache.hooks, None, f"{where} holds", "add one with {hook}")
        except InputError as refusal:
            refusals.append(str(refusal))
        else:
            return Source(cache, hook)
    raise InputError(f"--cache: none fits {path}. " + " ".join(refusals))


def _space(side: Compared) -> str:
    return f"hook {side.hook or 'unknown'} of model {side.model or 'unknown'}, width {side.config.d_in}"
