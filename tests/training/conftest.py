"""A small cell store with structure to learn, and a small encoder that knows its genes."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
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
    obs = pd.DataFrame(index=[f"cell{number}" for number in range(N_CELLS)])
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
