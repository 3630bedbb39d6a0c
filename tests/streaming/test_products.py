"""What each product writes equals what the encoder says of the same cells, in the order of the store."""

import anndata
import numpy as np
import pandas as pd
import pytest

from engine import models
from engine.streaming.inputs import Inputs
from engine.streaming.products.activations import ActivationProduct
from engine.streaming.products.embeddings import EmbeddingProduct
from engine.streaming.products.genes import GeneEmbeddingProduct
from engine.streaming.recipe import Recipe
from storage.activations import ActivationCache
from tests.streaming.in_process import encode_here


@pytest.fixture(params=["tahoe_model", "geneformer_model"])
def model(request):
    return request.getfixturevalue(request.param)


def open_both(store, model, max_cells=None):
    return Inputs.open(str(store), str(model), max_cells), models.load(model)


def tokens_of(inputs, max_tokens=None, seed=0):
    """All cells in one block: what members, packing and workers must not change."""
    limit = inputs.model.token_limit(max_tokens)
    return inputs.tokeniser(limit, seed).tokens(inputs.store.read(0, inputs.n_cells))


def activations(inputs, **more):
    chosen = {"hooks": ("resid_post_0", "final"), "precision": "fp32", "tokens_per_cell": None}
    chosen |= {"special_tokens": False, "seed": 0, "shard_tokens": 8192}
    identity = {"model": inputs.model.fingerprint, "store": inputs.store.dataset_id}
    return ActivationProduct(**{**chosen, **more}, identity=identity)


def read_cache(path, hook):
    """Everything a cache holds at one hook, sorted by cell and position."""
    cache = ActivationCache.open(str(path))
    parts = [cache.read(hook, member.key) for member in cache.members]
    cell, pos, gene = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("cell", "pos", "gene")
    )
    acts = np.concatenate([part.acts.float().numpy() for part in parts])
    order = np.lexsort((pos, cell))
    return cell[order], pos[order], gene[order], acts[order]


def test_embeddings(model, small_store, small_counts, tmp_path):
    inputs, encoder = open_both(small_store, model)
    product = EmbeddingProduct(inputs.model.layer(None), inputs.model.default_pool)
    encode_here(inputs, product, tmp_path / "out", Recipe(inputs.model.max_tokens))
    written = anndata.read_zarr(tmp_path / "out")
    tokens = tokens_of(inputs)
    np.testing.assert_allclose(written.X, encoder.embed(tokens).detach().numpy(), atol=2e-5)
    assert list(written.obs_names) == list(small_counts.obs_names)
    assert list(written.obs["cell_type"]) == list(small_counts.obs["cell_type"])
    np.testing.assert_array_equal(written.obs["n_tokens"], tokens.lengths)


def test_a_cell_without_genes_is_nan(geneformer_model, small_store, tmp_path):
    inputs, _ = open_both(small_store, geneformer_model, max_cells=40)
    snapshot = encode_here(inputs, EmbeddingProduct(1, "mean"), tmp_path / "out", Recipe(256))
    written = anndata.read_zarr(tmp_path / "out")
    assert np.flatnonzero(np.isnan(written.X).all(1)).tolist() == [17]
    assert written.obs["n_tokens"].iloc[17] == 0
    assert np.isfinite(np.delete(written.X, 17, axis=0)).all()
    assert [record.facts["n_empty"] for record in snapshot.members] == [1]


def test_layer_pool_and_sampling(tahoe_model, small_store, tmp_path):
    inputs, encoder = open_both(small_store, tahoe_model, max_cells=80)
    encode_here(inputs, EmbeddingProduct(0, "mean"), tmp_path / "out", Recipe(64, seed=5))
    expected = encoder.embed(tokens_of(inputs, 64, seed=5), layer=0, pool="mean").detach().numpy()
    np.testing.assert_allclose(anndata.read_zarr(tmp_path / "out").X, expected, atol=2e-5)


def test_gene_embeddings_are_means_over_all_cells(model, small_store, small_counts, tmp_path):
    inputs, encoder = open_both(small_store, model)
    hook = inputs.model.hook_of(inputs.model.layer(None))
    encode_here(inputs, GeneEmbeddingProduct(hook), tmp_path / "out", Recipe(inputs.model.max_tokens))
    table = pd.read_parquet(tmp_path / "out" / "gene_embeddings.parquet").set_index("gene")
    tokens = tokens_of(inputs)
    x_TD = encoder(tokens, hooks=(hook,)).hooks[hook].detach().double().numpy()
    counted = np.bincount(tokens.ids_T, minlength=len(inputs.model.tokeniser.gene_ids))
    np.testing.assert_array_equal(table["n_cells"], counted[table["token"]])
    for gene in (table["n_cells"].idxmax(), table.index[table["n_cells"] == 1][0]):
        rows = tokens.ids_T == table.loc[gene, "token"]
        np.testing.assert_allclose(table.loc[gene, "embedding"], x_TD[rows].mean(0), atol=2e-5)
    assert "<cls>" not in table.index
    assert np.isnan(np.stack(table["embedding"][table["n_cells"] == 0])).all()
    names = small_counts.var.set_index("ensembl_id")["gene_name"]
    assert list(table["gene_name"]) == list(names.loc[table.index])


def test_gene_embeddings_equal_the_original(shared, tmp_path):
    """Golden case A of Tahoe-x1: official `return_gene_embeddings` over twelve cells."""
    from storage.ingest import IngestOptions, ingest

    case = shared / "golden" / "tahoe" / "A"
    ingest([str(case / "input.h5ad")], str(tmp_path / "store"), IngestOptions(gene_id_key="ensembl_id"))
    inputs, _ = open_both(tmp_path / "store", case / "model")
    encode_here(inputs, GeneEmbeddingProduct("final"), tmp_path / "out", Recipe(2048))
    table = pd.read_parquet(tmp_path / "out" / "gene_embeddings.parquet")
    expected = np.load(case / "expected.npz")["gene_emb_mean"][table["token"]]
    np.testing.assert_allclose(np.stack(table["embedding"]), expected, atol=2e-5)


def test_activations_are_the_hooks_of_every_gene_token(model, small_store, tmp_path):
    inputs, encoder = open_both(small_store, model, max_cells=200)
    encode_here(inputs, activations(inputs), tmp_path / "out", Recipe(inputs.model.max_tokens))
    tokens = tokens_of(inputs)
    genes = ~np.isin(tokens.ids_T, list(encoder.tokeniser.special_ids))
    states = encoder(tokens, hooks=("resid_post_0", "final")).hooks
    for hook, x_TD in states.items():
        cell, pos, gene, acts = read_cache(tmp_path / "out", hook)
        np.testing.assert_array_equal(cell, tokens.cell_T[genes])
        np.testing.assert_array_equal(pos, tokens.position_T[genes])
        np.testing.assert_array_equal(gene, tokens.ids_T[genes])
        np.testing.assert_allclose(acts, x_TD.detach().numpy()[genes], atol=5e-5)


def test_shards_stay_within_their_budget_and_say_what_they_hold(tahoe_model, small_store, tmp_path):
    inputs, _ = open_both(small_store, tahoe_model, max_cells=200)
    snapshot = encode_here(inputs, activations(inputs, precision="bf16"), tmp_path / "out", Recipe(512))
    cache = ActivationCache.open(str(tmp_path / "out"))
    assert len(snapshot.members) > 3
    assert all(0 < record.facts["n_tokens"] <= 8192 for record in snapshot.members)
    assert (cache.d, cache.dtype, cache.n_cells) == (32, "bf16", 200)
    assert cache.hooks == ("final", "resid_post_0")
    assert cache.metadata["model"] == inputs.model.fingerprint
    assert cache.metadata["store"] == inputs.store.dataset_id
    genes = cache.genes
    assert genes.loc[genes["class"] == "special", "gene_id"].str.startswith("<").all()


def test_tokens_per_cell_keeps_a_sample_of_full_context_activations(tahoe_model, small_store, tmp_path):
    inputs, encoder = open_both(small_store, tahoe_model, max_cells=60)
    encode_here(inputs, activations(inputs, tokens_per_cell=16), tmp_path / "out", Recipe(512))
    cell, pos, _, acts = read_cache(tmp_path / "out", "final")
    counts = np.bincount(cell, minlength=60)
    assert counts[17] == 0
    assert (np.delete(counts, 17) == 16).all()
    tokens = tokens_of(inputs, 512)
    x_TD = encoder(tokens).hooks["final"].detach().numpy()
    np.testing.assert_allclose(acts, x_TD[tokens.offsets[cell] + pos], atol=5e-5)


@pytest.mark.parametrize("shard_tokens", [300, 64])
def test_the_sample_does_not_depend_on_how_cells_are_cut_into_members(
    tahoe_model, small_store, tmp_path, shard_tokens
):
    """Nor on actors: they share out members, which the plan fixes."""
    inputs, _ = open_both(small_store, tahoe_model, max_cells=60)
    chosen = {"hooks": ("embed",), "tokens_per_cell": 16, "precision": "fp8"}
    encode_here(inputs, activations(inputs, **chosen), tmp_path / "few", Recipe(512))
    more = encode_here(
        inputs, activations(inputs, **chosen, shard_tokens=shard_tokens), tmp_path / "many", Recipe(512)
    )
    assert len(more.members) > 3
    few, many = (read_cache(tmp_path / name, "embed") for name in ("few", "many"))
    for one, other in zip(few, many, strict=True):
        np.testing.assert_array_equal(one, other)


def test_special_tokens_on_request(tahoe_model, small_store, tmp_path):
    inputs, _ = open_both(small_store, tahoe_model, max_cells=60)
    encode_here(inputs, activations(inputs, special_tokens=True), tmp_path / "out", Recipe(512))
    cell, pos, gene, _ = read_cache(tmp_path / "out", "final")
    assert (gene[pos == 0] == inputs.model.tokeniser.vocabulary["<cls>"]).all()
    assert np.unique(cell).tolist() == list(range(60))
    cache = ActivationCache.open(str(tmp_path / "out"))
    for member in cache.members:
        tokens = cache.read("final", member.key)
        np.testing.assert_array_equal(tokens.token_class, inputs.model.tokeniser.token_classes[tokens.gene])
