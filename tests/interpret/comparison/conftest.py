"""Caches of the same cells by two models, and autoencoders of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.streaming.inputs import geneformer_model, genes, small_counts, small_store, tahoe_model

__all__ = ["geneformer_model", "genes", "small_counts", "small_store", "tahoe_model"]

CELLS, FEATURES, ACTIVE = 24, 48, 4


@dataclass(frozen=True)
class Place:
    """Paths. Tahoe's cache holds resid_post_0 and resid_post_1, Geneformer's resid_post_1; autoencoders `a`
    and `b` are two seeds at Tahoe's last block, `lower` is at its first, `other` at Geneformer's."""

    tahoe: str
    geneformer: str
    folder: Path

    def sae(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="session")
def place(
    small_store: Path, tahoe_model: Path, geneformer_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    folder = tmp_path_factory.mktemp("comparison")
    fingerprints = {}
    for name, model, hooks, shard_tokens in (
        ("tahoe", tahoe_model, ("resid_post_0", "resid_post_1"), 4096),
        ("geneformer", geneformer_model, ("resid_post_1",), 1500),
    ):
        fingerprints[name] = write_cache(folder / name, small_store, model, hooks, shard_tokens)
    for name, of, hook, seed in (
        ("a", "tahoe", "resid_post_1", 0),
        ("b", "tahoe", "resid_post_1", 1),
        ("lower", "tahoe", "resid_post_0", 2),
        ("other", "geneformer", "resid_post_1", 3),
    ):
        write_autoencoder(folder / name, fingerprints[of], hook, seed)
    return Place(str(folder / "tahoe"), str(folder / "geneformer"), folder)


def write_cache(path: Path, store: Path, model: Path, hooks: tuple[str, ...], shard_tokens: int) -> str:
    """Of the first cells, without Ray; returns the model's fingerprint."""
    from engine.streaming.inputs import Inputs
    from engine.streaming.products.activations import ActivationProduct
    from engine.streaming.recipe import Recipe
    from tests.streaming.in_process import encode_here

    inputs = Inputs.open(str(store), str(model), CELLS)
    identity = {"model": inputs.model.fingerprint, "store": inputs.store.dataset_id}
    product = ActivationProduct(
        hooks=hooks,
        precision="fp32",
        tokens_per_cell=None,
        special_tokens=True,
        seed=0,
        identity=identity,
        shard_tokens=shard_tokens,
    )
    encode_here(inputs, product, path, Recipe(inputs.model.max_tokens))
    return inputs.model.fingerprint


def write_autoencoder(path: Path, model: str, hook: str, seed: int, width: int = 32) -> None:
    from engine.models import sae

    metadata = {"model": model, "hook_name": hook}
    sae.save(sae.create(width, FEATURES, ACTIVE, seed=seed, metadata=metadata), path)
