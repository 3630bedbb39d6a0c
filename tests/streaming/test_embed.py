"""`embed` end to end on Ray: the numbers of the encoder, in the order and with the annotations of the
store.
"""

import anndata
import numpy as np
import pandas as pd
import pytest

from engine import models
from engine.models import geneformer, tahoe
from engine.streaming.inputs import Inputs
from jobs import cache, embed
from storage.cells import CellStore
from storage.errors import InputError


def tokens_of(encoder, store_path, max_tokens=None, seed=0):
    store = CellStore.open(str(store_path))
    block = store.read(0, store.n_cells)
    match = encoder.tokeniser.match(list(store.genes.index))
    return encoder.tokeniser.tokenise(
        block.indptr, block.indices, block.counts, match, max_tokens=max_tokens, seed=seed
    )


def options(store, model, output, **more):
    return embed.Options(cells=str(store), model=str(model), output=str(output), **more)


@pytest.mark.parametrize("model", ["tahoe_model", "geneformer_model"])
def test_embeddings_equal_those_of_the_encoder(
    model, request, small_store, small_counts, tmp_path, ray_cluster
):
    directory = request.getfixturevalue(model)
    outcome = embed.run(options(small_store, directory, tmp_path / "out"))
    written = anndata.read_zarr(tmp_path / "out")
    encoder = models.load(directory)
    tokens = tokens_of(encoder, small_store)
    expected = encoder.embed(tokens).detach().numpy()
    np.testing.assert_allclose(written.X, expected, atol=2e-5)
    assert list(written.obs_names) == list(small_counts.obs_names)
    assert list(written.obs["cell_type"]) == list(small_counts.obs["cell_type"])
    np.testing.assert_array_equal(written.obs["n_tokens"], tokens.lengths)
    assert outcome.counts_out == {"cells": small_counts.n_obs, "dimensions": 32}
    assert outcome.throughput["cells_per_second"] > 0
    assert outcome.peak_memory_bytes


def test_a_cell_without_genes_is_nan(geneformer_model, small_store, tmp_path, ray_cluster):
    embed.run(options(small_store, geneformer_model, tmp_path / "out", max_cells=40))
    written = anndata.read_zarr(tmp_path / "out")
    assert np.flatnonzero(np.isnan(written.X).all(1)).tolist() == [17]
    assert written.obs["n_tokens"].iloc[17] == 0
    assert np.isfinite(np.delete(written.X, 17, axis=0)).all()


def test_layer_pool_and_sampling_are_asked_for(tahoe_model, small_store, tmp_path, ray_cluster):
    embed.run(
        options(
            small_store,
            tahoe_model,
            tmp_path / "out",
            layer=0,
            pool="mean",
            max_tokens=64,
            seed=5,
            max_cells=80,
        )
    )
    encoder = models.load(tahoe_model)
    tokens = tokens_of(encoder, small_store, max_tokens=64, seed=5).select(np.arange(80))
    expected = encoder.embed(tokens, layer=0, pool="mean").detach().numpy()
    np.testing.assert_allclose(anndata.read_zarr(tmp_path / "out").X, expected, atol=2e-5)


def test_gene_embeddings_are_means_over_all_cells(
    tahoe_model, small_store, small_counts, tmp_path, ray_cluster
):
    embed.run(options(small_store, tahoe_model, tmp_path / "out", pool="gene"))
    table = pd.read_parquet(tmp_path / "out" / "gene_embeddings.parquet").set_index("gene")
    encoder = models.load(tahoe_model)
    tokens = tokens_of(encoder, small_store)
    x_TD = encoder(tokens, hooks=("final",)).hooks["final"].detach().double().numpy()
    for gene in (table["n_cells"].idxmax(), table.index[table["n_cells"] == 1][0]):
        rows = tokens.ids_T == encoder.tokeniser.vocabulary[gene]
        assert table.loc[gene, "n_cells"] == rows.sum()
        np.testing.assert_allclose(table.loc[gene, "embedding"], x_TD[rows].mean(0), atol=2e-5)
    assert "<cls>" not in table.index
    unseen = table[table["n_cells"] == 0]
    assert np.isnan(np.stack(unseen["embedding"])).all()
    named = small_counts.var.set_index("ensembl_id")["gene_name"]
    assert table["gene_name"].equals(named.loc[table.index].rename_axis("gene"))


def test_a_finished_job_does_nothing(tahoe_model, small_store, tmp_path, ray_cluster):
    wanted = options(small_store, tahoe_model, tmp_path / "out", max_cells=40)
    assert embed.run(wanted).did_work
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert not embed.run(wanted).did_work
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_tensor_parallel_is_refused(tahoe_model, small_store, tmp_path):
    with pytest.raises(InputError, match="--tensor-parallel 2"):
        embed.run(options(small_store, tahoe_model, tmp_path / "out", tensor_parallel=2))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"layer": 9}, "layer 9"),
        ({"max_tokens": 1}, "--max-tokens 1"),
        ({"max_tokens": 100_000}, "--max-tokens 100000"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(
    more, message, geneformer_model, small_store, tmp_path
):
    with pytest.raises(ValueError, match=message):
        embed.run(options(small_store, geneformer_model, tmp_path / "out", **more))
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_cell_token_has_no_cls_pool(genes, small_store, tmp_path):
    v1 = geneformer.create(
        genes, dict.fromkeys(genes, 1.0), d_model=8, n_layers=2, n_heads=1, special_tokens=False
    )
    models.save(v1, tmp_path / "model")
    with pytest.raises(InputError, match="no cell token"):
        embed.run(options(small_store, tmp_path / "model", tmp_path / "out", pool="cls"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("job", [embed, cache])
def test_a_store_of_unknown_genes_is_refused_with_the_match_report(job, small_store, tmp_path):
    models.save(tahoe.create(["ENSG99999999999"], d_model=8, n_layers=1, n_heads=1), tmp_path / "model")
    more = {"hooks": "final"} if job is cache else {}
    wanted = job.Options(
        cells=str(small_store), model=str(tmp_path / "model"), output=str(tmp_path / "out"), **more
    )
    with pytest.raises(InputError, match=r"0 of \d+ genes"):
        job.run(wanted)
    assert not (tmp_path / "out").exists()


def test_few_known_genes_are_a_warning(genes, small_store, tmp_path):
    models.save(tahoe.create(genes[:3000], d_model=8, n_layers=1, n_heads=1), tmp_path / "model")
    (warning,) = Inputs.open(str(small_store), str(tmp_path / "model")).warnings
    assert "3000 of" in warning
