"""The size printed before a cache is made against the size of the cache that was made."""

import anndata
import numpy as np
import pytest

from engine.streaming.inputs import Inputs
from engine.streaming.products.activations import ActivationProduct
from engine.streaming.recipe import Recipe
from engine.streaming.sizing import cache_size
from storage.activations import ActivationCache
from storage.ingest import ingest
from tests.streaming.in_process import encode_here


@pytest.fixture(scope="module")
def pbmc_store(shared, tmp_path_factory):
    """All 2,638 cells of pbmc3k."""
    folder = tmp_path_factory.mktemp("pbmc3k")
    ingest([str(shared / "data" / "pbmc3k.h5ad")], str(folder / "store"))
    return folder / "store"


@pytest.fixture(scope="module")
def tiny_model(shared, tmp_path_factory):
    """One block of width 8: as small as a model can be, so that what lies beside activations counts."""
    from engine import models
    from engine.models import tahoe

    var = anndata.read_h5ad(shared / "data" / "pbmc3k.h5ad", backed="r").var
    directory = tmp_path_factory.mktemp("models") / "tiny"
    models.save(
        tahoe.create(list(var["ensembl_id"]), d_model=8, n_layers=1, n_heads=1, max_tokens=256), directory
    )
    return directory


@pytest.mark.parametrize(
    ("precision", "more"),
    [
        ("fp8", {"special_tokens": True}),
        ("bf16", {"tokens_per_cell": 24, "shard_tokens": 4096}),
        ("fp32", {}),
    ],
)
def test_the_estimate_is_within_a_tenth(pbmc_store, tiny_model, tmp_path, precision, more):
    inputs = Inputs.open(str(pbmc_store), str(tiny_model), None)
    chosen = {"tokens_per_cell": 64, "special_tokens": False, "shard_tokens": 65536, "seed": 0} | more
    product = ActivationProduct(hooks=("embed", "resid_pre_0"), precision=precision, identity={}, **chosen)
    recipe = Recipe(256)
    expected = cache_size(inputs, product, recipe)
    snapshot = encode_here(inputs, product, tmp_path / "out", recipe)
    cache = ActivationCache.open(str(tmp_path / "out"))
    assert cache.dtype == precision
    assert expected.tokens == pytest.approx(cache.n_tokens, rel=0.1)
    assert expected.size == pytest.approx(snapshot.size, rel=0.1)
    classes = np.concatenate([cache.read("embed", member.key).token_class for member in cache.members])
    assert np.unique(classes).tolist() == ([0, 1] if product.special_tokens else [0])
