"""Real cells and small random encoders for the tests that stream; imported by the conftest files that
need them.
"""

from pathlib import Path

import anndata
import numpy as np
import pytest

N_CELLS = 300


@pytest.fixture(scope="session")
def small_counts(shared: Path) -> anndata.AnnData:
    """300 of the PBMCs, every eighth, so that all cell types are there; one of them emptied."""
    cells = anndata.read_h5ad(shared / "data" / "pbmc3k.h5ad")[::8][:N_CELLS].copy()
    counts = cells.X.tocsr()
    counts.data[counts.indptr[17] : counts.indptr[18]] = 0
    counts.eliminate_zeros()
    cells.X = counts
    return cells


@pytest.fixture(scope="session")
def small_store(small_counts: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from storage.ingest import ingest

    folder = tmp_path_factory.mktemp("cells")
    small_counts.write_h5ad(folder / "pbmc.h5ad")
    ingest([str(folder / "pbmc.h5ad")], str(folder / "store"))
    return folder / "store"


@pytest.fixture(scope="session")
def genes(small_counts: anndata.AnnData) -> list[str]:
    return list(small_counts.var["ensembl_id"])


@pytest.fixture(scope="session")
def tahoe_model(genes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Tahoe-x1 of two blocks."""
    from engine import models
    from engine.models import tahoe

    directory = tmp_path_factory.mktemp("models") / "tahoe"
    models.save(tahoe.create(genes, d_model=32, n_layers=2, n_heads=2, max_tokens=512, seed=1), directory)
    return directory


@pytest.fixture(scope="session")
def geneformer_model(genes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Geneformer V2 of three blocks."""
    from engine import models
    from engine.models import geneformer

    medians = dict(zip(genes, np.random.default_rng(0).uniform(0.5, 5, len(genes)), strict=True))
    encoder = geneformer.create(
        genes, medians, d_model=32, n_layers=3, n_heads=2, ffn=64, max_tokens=256, seed=1
    )
    directory = tmp_path_factory.mktemp("models") / "geneformer"
    models.save(encoder, directory)
    return directory
