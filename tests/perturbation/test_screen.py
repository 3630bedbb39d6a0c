from pathlib import Path

import numpy as np
import pytest

from engine.perturbation import screen as screens
from engine.perturbation.screen import open_h5ad, open_store
from storage.cells import CellStore
from storage.errors import InputError
from tests.perturbation.screens import small_screen, small_store


def test_groups_of_a_file_and_of_a_store_hold_the_same_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screens, "CELLS_AT_ONCE", 70)  # several passes
    store = small_store(tmp_path)
    cells = small_screen()
    shuffled = cells[np.random.default_rng(0).permutation(cells.n_obs)].copy()
    shuffled.write_h5ad(tmp_path / "shuffled.h5ad")
    flags = {"perturbation": "target", "context": "line"}
    one = open_store(CellStore.open(store), **flags)
    other = open_h5ad(str(tmp_path / "shuffled.h5ad"), **flags)
    assert sorted(one.groups) == sorted(other.groups)
    found = dict(other.stream(list(other.groups)))
    for group, matrix in one.stream(list(one.groups)):
        own = cells[(cells.obs["line"] == group[0]) & (cells.obs["target"] == group[1])].X
        assert (matrix != own).nnz == 0
        np.testing.assert_array_equal(matrix.sum(axis=0), found[group].sum(axis=0))
    assert one.target_rows("G0+G1").tolist() == [0, 1]
    assert one.target_rows("X1").tolist() == []


def test_genes_are_called_what_the_perturbations_call_them(tmp_path: Path) -> None:
    cells = small_screen()
    cells.var["gene_name"] = [f"S{number}" for number in range(cells.n_vars)]
    cells.write_h5ad(tmp_path / "ids.h5ad")
    assert open_h5ad(str(tmp_path / "ids.h5ad"), perturbation="target").genes[0] == "G0"
    cells.var["gene_name"] = cells.var_names.to_numpy()
    cells.var_names = [f"ENSG{number}" for number in range(cells.n_vars)]
    cells.write_h5ad(tmp_path / "names.h5ad")
    assert open_h5ad(str(tmp_path / "names.h5ad"), perturbation="target").genes[0] == "G0"
    cells.var["gene_name"] = "same"
    cells.var_names = ["A"] * cells.n_vars
    cells.write_h5ad(tmp_path / "twice.h5ad")
    with pytest.raises(InputError, match="occurs more than once"):
        open_h5ad(str(tmp_path / "twice.h5ad"), perturbation="target")


def test_what_is_neither_counts_nor_logarithms_is_refused(tmp_path: Path) -> None:
    cells = small_screen()
    cells.X = cells.X * 1.5
    cells.write_h5ad(tmp_path / "scaled.h5ad")
    with pytest.raises(InputError, match="expected integer counts"):
        open_h5ad(str(tmp_path / "scaled.h5ad"), perturbation="target")
    cells.X = cells.X.log1p()
    cells.write_h5ad(tmp_path / "logs.h5ad")
    assert open_h5ad(str(tmp_path / "logs.h5ad"), perturbation="target").scale == "log1p"
