"""h5ad files written piece by piece: what AnnData reads is what was written, and nothing appears half."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from storage.errors import InputError
from storage.h5ad_writing import new_h5ad, split_name


def test_anndata_reads_what_was_written(tmp_path: Path) -> None:
    counts = sparse.random(50, 20, 0.3, format="csr", random_state=0, dtype=np.float32)
    obs = pd.DataFrame({"kind": pd.Categorical(["a", "b"] * 25)}, index=[f"c{i}" for i in range(50)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(20)])
    with new_h5ad(tmp_path / "cells.h5ad") as h5ad:
        genes = sparse.csr_matrix(counts.T)
        assert h5ad.write_csc((50, 20), (genes[start : start + 7] for start in (0, 7, 14))) == counts.nnz
        h5ad.write("obs", obs)
        h5ad.write("var", var)
        h5ad.write("uns/nested", {"names": np.array(["x", "y"], dtype=object)})
        place = h5ad.rows("obsm/X_map", 50, 2)
        place[10:50] = 1.0
        top = h5ad.categorical_rows("obsm/top", ["Top_1", "Top_2"], obs.index.to_numpy(), ["A", "B", "C"])
        top[0][:50], top[1][:20] = np.arange(50) % 3, 2
    found = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert isinstance(found.X, sparse.csc_matrix)
    np.testing.assert_array_equal(found.X.toarray(), counts.toarray())
    pd.testing.assert_frame_equal(found.obs, obs)
    assert list(found.uns["nested"]["names"]) == ["x", "y"]
    assert np.isnan(found.obsm["X_map"][:10]).all()
    assert (found.obsm["X_map"][10:] == 1).all()
    assert list(found.obsm["top"]["Top_1"][:4]) == ["A", "B", "C", "A"]
    assert found.obsm["top"]["Top_2"].isna().sum() == 30
    found.write_h5ad(tmp_path / "again.h5ad")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.h5ad", "cells.h5ad"]


def test_a_file_that_fails_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / "cells.h5ad").write_bytes(b"the old one")
    with pytest.raises((TypeError, ValueError)):
        half_written(tmp_path / "cells.h5ad")
    assert (tmp_path / "cells.h5ad").read_bytes() == b"the old one"
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


def half_written(path: Path) -> None:
    with new_h5ad(path) as h5ad:
        h5ad.rows("obsm/X_map", 5, 2)[...] = np.zeros((4, 3))


def test_blocks_must_be_all_genes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="blocks of 3 genes"), new_h5ad(tmp_path / "x.h5ad") as h5ad:
        h5ad.write_csc((4, 5), [sparse.csr_matrix((3, 4), dtype=np.float32)])


def test_a_file_in_an_object_store() -> None:
    with new_h5ad("memory://h5ads/cells.h5ad") as h5ad:
        h5ad.rows("obsm/X_map", 3, 2)[...] = 0
    folder, name = split_name("memory://h5ads/cells.h5ad")
    assert folder.exists(name)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory"):
        split_name(tmp_path)
