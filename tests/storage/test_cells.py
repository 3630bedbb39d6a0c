"""Reading a cell store: blocks, ranges, tables, dask; damage has a name."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storage.cells import CellStore
from storage.errors import DamagedDataset, InputError
from storage.ingest import IngestOptions, ingest
from tests.storage import inputs

N, MEMBER = 100, 32


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    inputs.cells(N).write_h5ad(folder / "cells.h5ad")
    ingest([str(folder / "cells.h5ad")], folder / "store", IngestOptions(shard_cells=MEMBER))
    return folder / "store"


@pytest.fixture(scope="module")
def dense() -> np.ndarray:
    return inputs.cells(N).X.toarray()


def test_blocks_across_members(path: Path, dense: np.ndarray) -> None:
    store = CellStore.open(path)
    assert (store.n_cells, store.n_genes) == (N, 40)
    assert store.member_starts.tolist() == [0, 32, 64, 96, 100]
    for start, stop in [(0, N), (0, 0), (31, 33), (10, 97), (96, 100), (100, 100)]:
        block = store.read(start, stop)
        assert (block.start, block.stop, block.n_rows) == (start, stop, stop - start)
        assert (block.indptr.dtype, block.indices.dtype, block.counts.dtype) == (
            np.int64,
            np.int32,
            np.uint16,
        )
        assert block.indptr[0] == 0
        assert np.array_equal(block.to_csr().toarray(), dense[start:stop])
    with pytest.raises(IndexError):
        store.read(0, N + 1)


def test_ranges_in_any_order(path: Path, dense: np.ndarray) -> None:
    store = CellStore.open(path)
    ranges = [(90, 99), (0, 3), (30, 70), (5, 5), (0, 3)]
    rows = store.read_ranges(ranges)
    assert np.array_equal(rows.to_csr().toarray(), np.vstack([dense[start:stop] for start, stop in ranges]))
    assert store.read_ranges([]).n_rows == 0


def test_tables(path: Path, dense: np.ndarray) -> None:
    store, adata = CellStore.open(path), inputs.cells(N)
    pd.testing.assert_frame_equal(store.obs(), adata.obs)
    pd.testing.assert_frame_equal(store.obs(["score", "cell_type"]), adata.obs[["score", "cell_type"]])
    with pytest.raises(KeyError, match="donor"):
        store.obs(["donor"])
    assert store.genes.index.tolist() == adata.var["ensembl_id"].tolist()
    assert store.genes["gene_name"].tolist() == adata.var["gene_name"].tolist()
    assert np.array_equal(store.nnz_per_cell, (dense > 0).sum(1))
    assert np.array_equal(store.total_counts, dense.sum(1))
    assert store.nnz == (dense > 0).sum()


def test_dask_and_pickle(path: Path, dense: np.ndarray) -> None:
    store = pickle.loads(pickle.dumps(CellStore.open(path)))
    lazy = store.to_dask(rows=20)
    assert lazy.chunks[0] == (20, 12, 20, 12, 20, 12, 4)
    assert np.array_equal(lazy.compute(scheduler="threads").toarray(), dense)


def test_more_members_than_are_kept_open(
    path: Path, dense: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.cells._OPEN_MEMBERS", 1)
    assert np.array_equal(CellStore.open(path).read(0, N).to_csr().toarray(), dense)


def test_damage_is_an_error_by_name(path: Path) -> None:
    name = path / "dataset_1/X/data/c/0"
    content = name.read_bytes()
    try:
        flipped = bytearray(content)
        flipped[100] ^= 1
        name.write_bytes(flipped)
        store = CellStore.open(path)
        with pytest.raises(DamagedDataset, match="dataset_1/X/data/c/0"):
            store.read(40, 41)
        store.read(0, 32)
        name.unlink()
        with pytest.raises(DamagedDataset, match="dataset_1/X/data/c/0: missing"):
            CellStore.open(path)
        with pytest.raises(DamagedDataset, match="dataset_1/X/data/c/0: missing"):
            CellStore(store.snapshot).read(40, 41)
    finally:
        name.write_bytes(content)


def test_other_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no dataset here"):
        CellStore.open(tmp_path)
