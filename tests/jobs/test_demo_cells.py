"""The demo's cells are the real integers."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

from jobs.demo_cells import demo_cells, recover_counts, wheel_file, write_demo_cells
from storage.errors import InputError


def test_counts_equal_the_reference_file(shared: Path) -> None:
    ours = demo_cells()
    reference = anndata.read_h5ad(shared / "data" / "pbmc68k_reduced.h5ad")
    assert ours.shape == reference.shape == (700, 765)
    assert ours.X.dtype == np.int32
    assert (ours.X != reference.X).nnz == 0
    assert ours.obs_names.tolist() == reference.obs_names.tolist()
    assert ours.var_names.tolist() == reference.var["gene_name"].tolist()
    assert ours.obs["cell_type"].tolist() == reference.obs["cell_type_original"].tolist()
    assert ours.obs["umi_all_genes"].tolist() == reference.obs["total_umi_all_genes"].tolist()


def test_recovery_inverts_normalisation() -> None:
    counts = sparse.random(
        50, 30, 0.3, format="csr", random_state=0, data_rvs=lambda n: np.arange(n) % 40 + 1
    )
    totals = np.asarray(counts.sum(axis=1)).ravel() + 500
    stored = counts.multiply(1e4 / totals[:, None]).log1p().tocsr()
    stored.data = stored.data.round(3)
    assert (recover_counts(stored, totals) != counts).nnz == 0


def test_values_that_are_not_counts_are_refused() -> None:
    stored = sparse.csr_matrix(np.log1p(np.array([[0.5, 3.0]])))
    with pytest.raises(ValueError, match="not log1p"):
        recover_counts(stored, np.array([10_000]))


def test_a_scanpy_without_the_file_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install scanpy"):
        wheel_file()


def test_writing_is_done_once(tmp_path: Path) -> None:
    path = tmp_path / "demo" / "pbmc68k.h5ad"
    assert write_demo_cells(path)
    assert not write_demo_cells(path)
    assert anndata.read_h5ad(path).shape == (700, 765)
    assert [file.name for file in path.parent.iterdir()] == ["pbmc68k.h5ad"]
