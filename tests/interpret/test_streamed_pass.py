"""A pass fused with encoding sees what a pass over a cache of the same activations sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.interpret import streamed_pass
from engine.interpret.cached_pass import CachedPass, observe_shards
from engine.interpret.inputs import EncodedInputs, FeatureInputs
from engine.interpret.reduction import merged_members
from engine.interpret.state import PassPlan, merge, resolution_for
from engine.interpret.streamed_pass import FeatureStateProduct, StreamedPass, _sample_peak
from engine.models import sae
from engine.streaming.products.activations import ActivationProduct
from engine.streaming.recipe import Recipe, Workers
from storage.commits import Dataset
from storage.errors import InputError
from tests.streaming.in_process import encode_here
from tests.streaming.inputs import geneformer_model, genes, small_counts, small_store, tahoe_model

__all__ = ["geneformer_model", "genes", "small_counts", "small_store", "tahoe_model"]

HOOK, CELLS, FEATURES = "resid_post_1", 24, 96
RECIPE = Recipe(256)


def write_autoencoder(path: Path, model: str, d_in: int = 32) -> Path:
    sae.save(sae.create(d_in, FEATURES, 6, seed=3, metadata={"hook_name": HOOK, "model": model}), path)
    return path


@pytest.fixture(params=["tahoe_model", "geneformer_model"])
def encoded(request: pytest.FixtureRequest, small_store: Path, tmp_path: Path) -> EncodedInputs:
    from engine.streaming.inputs import ModelFacts

    model = str(request.getfixturevalue(request.param))
    path = write_autoencoder(tmp_path / "sae", ModelFacts.read(model).fingerprint)
    return EncodedInputs.open(str(path), str(small_store), model, label="cell_type", max_cells=CELLS)


def test_fused_equals_cached(
    encoded: EncodedInputs, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = {"model": encoded.stream.model.fingerprint, "store": encoded.store.dataset_id}
    product = ActivationProduct((HOOK,), "fp32", None, False, 0, identity)
    encode_here(encoded.stream, product, tmp_path / "cache", RECIPE)
    cached = FeatureInputs.open(
        encoded.sae_path, str(tmp_path / "cache"), str(small_store), label="cell_type", max_cells=CELLS
    )
    peak = CachedPass(cached).sample_peak()
    assert _sample_peak(encoded, RECIPE, "cpu") == pytest.approx(peak, rel=0.5)
    plan = PassPlan(
        FEATURES, len(encoded.genes), len(encoded.label.labels), 5, resolution_for(peak), sample_share=0.3
    )
    shards = range(len(cached.cache.members))
    expected = merge([observe_shards(cached, plan, [number]) for number in shards])

    monkeypatch.setattr(streamed_pass, "FEWEST_TOKENS", 2000)
    states = tmp_path / "states"
    encode_here(encoded.stream, FeatureStateProduct(encoded, plan, (0, 50, FEATURES)), states, RECIPE)
    dataset = Dataset.open(str(states))
    keys = [member.key for member in dataset.members]
    assert len(keys) > 2
    tokens = merged_members(dataset, plan, keys, None)
    np.testing.assert_array_equal(tokens.tokens_G, expected.tokens.tokens_G)
    np.testing.assert_array_equal(tokens.expression_G, expected.tokens.expression_G)
    np.testing.assert_array_equal(tokens.counts, expected.tokens.counts)
    np.testing.assert_array_equal(np.unique(tokens.sample.token_S), np.unique(expected.tokens.sample.token_S))
    for number, whole in enumerate(expected.features.cut(plan, [0, 50, FEATURES])):
        part = merged_members(dataset, plan, keys, number)
        # Products of other shapes differ in their last bits: a feature at the edge of the top k may change.
        assert (part.cells_F != whole.cells_F).mean() < 0.05
        assert part.pairs.fired_P.sum() == pytest.approx(whole.pairs.fired_P.sum(), rel=1e-3)
        common = np.intersect1d(part.pairs.key_P, whole.pairs.key_P)
        assert len(common) > 0.99 * len(whole.pairs.key_P)
        ours, theirs = (np.searchsorted(run.key_P, common) for run in (part.pairs, whole.pairs))
        close = np.isclose(part.pairs.weighted_P[ours], whole.pairs.weighted_P[theirs], rtol=1e-4, atol=64)
        assert close.mean() > 0.99


def test_every_token_has_a_count(encoded: EncodedInputs) -> None:
    peak = _sample_peak(encoded, RECIPE, "cpu")
    assert peak > 0
    bound = StreamedPass(encoded, RECIPE, Workers()).most_tokens()
    assert bound >= encoded.store.nnz_per_cell[:CELLS].clip(max=256).sum() - 2 * CELLS


def test_what_does_not_belong_together_is_refused(
    tahoe_model: Path, small_store: Path, tmp_path: Path
) -> None:
    another = write_autoencoder(tmp_path / "another", "another")
    with pytest.raises(InputError, match="trained on activations of model another"):
        EncodedInputs.open(str(another), str(small_store), str(tahoe_model))
    wide = write_autoencoder(tmp_path / "wide", "another", d_in=16)
    with pytest.raises(InputError, match="width 16"):
        EncodedInputs.open(str(wide), str(small_store), str(tahoe_model))
    foreign = sae.create(32, FEATURES, 6, metadata={"hook_name": "blocks.7"})
    sae.save(foreign, tmp_path / "foreign")
    with pytest.raises(InputError, match=r"reads the hook point blocks\.7, but the model .* has embed"):
        EncodedInputs.open(str(tmp_path / "foreign"), str(small_store), str(tahoe_model))


def test_the_recipe_is_part_of_the_lineage(encoded: EncodedInputs) -> None:
    one = StreamedPass(encoded, RECIPE, Workers()).lineage()
    assert one != StreamedPass(encoded, replace(RECIPE, max_tokens=128), Workers()).lineage()
    assert one == StreamedPass(encoded, RECIPE, Workers(actors=3)).lineage()
