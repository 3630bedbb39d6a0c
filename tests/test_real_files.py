"""Every real file of the shared folder goes down the street: ingest, embed, cache."""

from pathlib import Path

import anndata
import numpy as np
import pytest

from engine import models
from engine.models import tahoe
from jobs import cache, embed, ingest
from storage.activations import ActivationCache
from storage.cells import CellStore

FILES = [
    "breast_tumor_copykat",
    "cortex_nuclei_allen",
    "glioblastoma_panobinostat",
    "lung_adenocarcinoma_lines_cellbench",
    "mouse_brain_10k_x_1000genes",
    "multi_tissue_text",
    "nsclc_zilionis",
    "pancreas_baron_human",
    "pbmc3k",
    "pbmc4k_soupx",
    "pbmc68k_reduced",
    "pbmc_facs_garnett",
    "pbmc_frozen_donorA",
    "pbmc_lupus_ifnb_kang",
    "pbmc_lupus_ifnb_kang_2k",
    "pbmc_sorted_zheng",
]
CELLS = 24


def path_of(shared: Path, name: str) -> Path:
    return shared / "data" / f"{name}.h5ad"


@pytest.mark.parametrize("name", FILES)
def test_ingest(name: str, shared: Path, tmp_path: Path) -> None:
    file, output = path_of(shared, name), str(tmp_path / "cells")
    assert ingest.main([str(file), "--output", output]) == 0
    store, source = CellStore.open(output), anndata.read_h5ad(file, backed="r")
    assert store.n_cells == source.n_obs
    assert list(store.obs().index) == list(source.obs_names)
    totals = np.asarray(source.X[:].sum(axis=1)).ravel()
    np.testing.assert_array_equal(store.total_counts, totals)


@pytest.mark.slow
def test_all_files_in_one_store_embed_and_cache(shared: Path, tmp_path: Path, ray_cluster: None) -> None:
    """Some cells of every file, human and mouse: one store, one model, one pass each."""
    parts = []
    for name in FILES:
        parts.append(str(tmp_path / f"{name}.h5ad"))
        anndata.read_h5ad(path_of(shared, name))[:CELLS].copy().write_h5ad(parts[-1])
    store_path, model, embeddings, activations = (
        str(tmp_path / part) for part in ("cells", "model", "e", "a")
    )
    assert ingest.main([*parts, "--output", store_path]) == 0
    store = CellStore.open(store_path)
    assert store.n_cells == CELLS * len(FILES)
    models.save(tahoe.create(list(store.genes.index), n_layers=1, d_model=16, n_heads=2, seed=0), Path(model))

    assert embed.main(["--cells", store_path, "--model", model, "--output", embeddings]) == 0
    found = anndata.read_zarr(embeddings)
    assert list(found.obs_names) == list(store.obs().index)
    np.testing.assert_allclose(np.linalg.norm(found.X, axis=1), 1, atol=1e-5)

    hooks = ["--hooks", "resid_post_0", "--max-tokens", "128"]
    assert cache.main(["--cells", store_path, "--model", model, *hooks, "--output", activations]) == 0
    # Of a cell, 127 genes at most: the cell token counts as one of the 128 and is not kept.
    assert ActivationCache.open(activations).n_tokens == np.minimum(store.nnz_per_cell, 127).sum()
