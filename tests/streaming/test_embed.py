"""The job `embed` on Ray, and what it refuses; what it writes is tested in test_products.py."""

import pandas as pd
import pytest

from engine import models
from engine.models import geneformer, tahoe
from engine.streaming.inputs import Inputs
from engine.streaming.products.embeddings import EmbeddingProduct
from engine.streaming.recipe import Recipe
from jobs import cache, embed
from storage.errors import InputError
from tests.streaming.in_process import encode_here, hashes


def options(store, model, output, **more):
    return embed.Options(cells=str(store), model=str(model), output=str(output), **more)


def test_embeddings_of_the_job(tahoe_model, small_store, small_counts, tmp_path, ray_cluster):
    outcome = embed.run(options(small_store, tahoe_model, tmp_path / "out"))
    inputs = Inputs.open(str(small_store), str(tahoe_model))
    encode_here(inputs, EmbeddingProduct(1, "cls"), tmp_path / "here", Recipe(inputs.model.max_tokens))
    assert hashes(tmp_path / "out") == hashes(tmp_path / "here")
    assert outcome.counts_out == {"cells": small_counts.n_obs, "dimensions": 32}
    assert outcome.throughput["cells_per_second"] > 0
    assert outcome.peak_memory_bytes > 2**27


def test_gene_embeddings_of_the_job(tahoe_model, small_store, genes, tmp_path, ray_cluster):
    outcome = embed.run(options(small_store, tahoe_model, tmp_path / "out", pool="gene", actors=1))
    table = pd.read_parquet(tmp_path / "out" / "gene_embeddings.parquet")
    assert len(table) == len(genes)
    assert outcome.counts_out == {"genes": (table["n_cells"] > 0).sum()}


def test_a_finished_job_does_nothing(tahoe_model, small_store, tmp_path, ray_cluster):
    wanted = options(small_store, tahoe_model, tmp_path / "out", max_cells=40)
    assert embed.run(wanted).did_work
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert not embed.run(wanted).did_work
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize("job", [embed, cache])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tensor_parallel": 3}, r"--tensor-parallel 3: .* can be shared by 1, 2 devices"),
        ({"tensor_parallel": 0}, "--tensor-parallel 0"),
        ({"batch_tokens": 0}, "--batch-tokens is 0"),
        ({"actors": 0}, "--actors is 0"),
        ({"threads": -1}, "--threads is -1"),
    ],
)
def test_workers_that_cannot_be_are_refused(job, more, message, tahoe_model, small_store, tmp_path):
    hooks = {"hooks": "final"} if job is cache else {}
    wanted = job.Options(
        cells=str(small_store), model=str(tahoe_model), output=str(tmp_path / "out"), **hooks, **more
    )
    with pytest.raises(InputError, match=message):
        job.run(wanted)
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
