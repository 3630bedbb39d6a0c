"""Whole-store statistics against numpy on the whole matrix."""

import numpy as np
import pytest

from engine.streaming import statistics
from storage.cells import CellStore
from storage.ingest import IngestOptions, ingest
from tests.storage import inputs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CellStore:
    folder = tmp_path_factory.mktemp("statistics")
    adata = inputs.cells(400, 60, seed=3)
    adata.X.data[adata.X.indices == 7] = 0  # a gene no cell has, as explicit zeros
    adata.write_h5ad(folder / "cells.h5ad")
    ingest([str(folder / "cells.h5ad")], folder / "store", IngestOptions(shard_cells=150))
    return CellStore.open(folder / "store")


@pytest.mark.usefixtures("ray_cluster")
def test_statistics_equal_numpy(store: CellStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "BLOCK_CELLS", 40)
    monkeypatch.setattr(statistics, "_MERGED_AT_ONCE", 3)
    dense = store.read(0, store.n_cells).to_csr().toarray().astype(np.float64)
    found = statistics.gene_statistics(store, normalised=False)
    assert found.index.tolist() == store.genes.index.tolist()
    assert np.array_equal(found["total"], dense.sum(0))
    assert np.allclose(found["mean"], dense.mean(0))
    assert np.array_equal(found["n_cells"], (dense > 0).sum(0))
    exact = [np.median(column[column > 0]) if column.any() else np.nan for column in dense.T]
    assert np.array_equal(found["nonzero_median"], exact, equal_nan=True)
    assert np.isnan(found["nonzero_median"].iloc[7])

    scaled = dense / dense.sum(1, keepdims=True) * 1e4
    exact = [np.median(column[column > 0]) if column.any() else np.nan for column in scaled.T]
    found = statistics.gene_statistics(store)
    np.testing.assert_allclose(found["nonzero_median"], exact, rtol=3e-4)
