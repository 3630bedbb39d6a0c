"""A small cell store with structure to learn, an encoder that knows its genes, and an activation cache."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

N_CELLS, N_GENES = 300, 120


def gene_ids() -> list[str]:
    return [f"ENSG{number:011d}" for number in range(N_GENES)]


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a store of 300 cells in three groups, each with its own highly expressed genes."""
    from storage.ingest import ingest

    random = np.random.default_rng(0)
    rate = np.full((N_CELLS, N_GENES), 0.3)
    for group in range(3):
        rate[group::3, group * 40 : group * 40 + 25] = random.uniform(1, 12, 25)
    counts = sparse.csr_matrix(random.poisson(rate).astype(np.float32))
    var = pd.DataFrame({"gene_name": [f"G{number}" for number in range(N_GENES)]}, index=gene_ids())
    kinds = ["rare" if number < 30 else "common" for number in range(N_CELLS)]
    obs = pd.DataFrame({"kind": kinds}, index=[f"cell{number}" for number in range(N_CELLS)])
    folder = tmp_path_factory.mktemp("cells")
    anndata.AnnData(counts, obs=obs, var=var).write_h5ad(folder / "cells.h5ad")
    ingest([str(folder / "cells.h5ad")], str(folder / "store"))
    return str(folder / "store")


@pytest.fixture(scope="session")
def encoder_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained two-layer Tahoe encoder of width 16."""
    from engine import models
    from engine.models import tahoe

    directory = tmp_path_factory.mktemp("encoder")
    encoder = tahoe.create(gene_ids(), n_layers=2, d_model=16, n_heads=2, max_tokens=64)
    models.save(encoder, directory)
    return directory


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Activations [6000, 24]: sparse sums of 40 directions about a far-off mean; three shards."""
    from storage.activations import encode_shard, finish_activations, gene_table, shard_name
    from storage.commits import Dataset, MemberPlan
    from storage.locations import Location

    location = Location.of(tmp_path_factory.mktemp("cache") / "cache")
    members = [
        MemberPlan(f"{number:06d}", {"start": number * 100, "stop": number * 100 + 100})
        for number in range(3)
    ]
    dataset = Dataset.plan(location, kind="activations", lineage={"hook": "resid_post_0"}, members=members)
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(40, 24, generator=generator), dim=1)
    mean = 5 * torch.nn.functional.normalize(torch.randn(24, generator=generator), dim=0)
    for number, member in enumerate(members):
        active = torch.rand(2000, 40, generator=generator) < 0.05
        acts = (active * torch.rand(2000, 40, generator=generator)) @ directions + mean
        place = np.arange(2000)
        cell, metadata = number * 100 + place // 20, {"model": "m", "seed": "0"}
        content = encode_shard(acts, cell, place % N_GENES, place % 20, 0 * place, metadata)
        writer = dataset.member(member.key)
        writer.put(shard_name("resid_post_0", member.key), content)
        writer.commit({**member.facts, "n_tokens": 2000})
    names = pd.DataFrame({"gene_name": gene_ids()}, index=gene_ids())
    finish_activations(dataset, gene_table(gene_ids(), frozenset(), names))
    return str(location)
