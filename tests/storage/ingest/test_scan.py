"""The full pass: what it measures, and identity by bytes."""

from pathlib import Path

import numpy as np

from storage.ingest.scan import fingerprint_of_input, scan_members
from tests.storage import inputs


def test_members_are_measured(tmp_path: Path) -> None:
    adata = inputs.cells()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    genes = np.arange(40, dtype=np.int32)
    first, second = scan_members(str(tmp_path / "cells.h5ad"), "X", genes, 0, [(0, 25), (25, 60)])
    for scan, part in ((first, adata.X[:25]), (second, adata.X[25:])):
        assert (scan.n_cells, scan.nnz, scan.total) == (part.shape[0], part.nnz, part.sum())
        assert scan.largest == part.max()
        assert scan.values.n_bad == 0


def test_sums_of_columns_may_be_too_large(tmp_path: Path) -> None:
    adata = inputs.cells(2, 2)
    adata.X = np.full((2, 2), 3_000_000_000, np.int64)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    (apart,) = scan_members(str(tmp_path / "cells.h5ad"), "X", np.array([0, 1], np.int32), 0, [(0, 2)])
    (summed,) = scan_members(str(tmp_path / "cells.h5ad"), "X", np.array([0, 0], np.int32), 0, [(0, 2)])
    assert (apart.values.n_too_large, summed.values.n_too_large) == (0, 1)


def test_fingerprint_is_of_bytes_not_of_places(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        inputs.cells().write_zarr(tmp_path / name / "cells.zarr")
        inputs.write_10x_mtx(tmp_path / name / "mtx", inputs.counts(), False)
    for name in ("cells.zarr", "mtx"):
        marks = {fingerprint_of_input(str(tmp_path / folder / name)) for folder in ("one", "two")}
        assert len(marks) == 1
    (tmp_path / "two/mtx/genes.tsv").write_text(
        (tmp_path / "one/mtx/genes.tsv").read_text().replace("G0", "H0")
    )
    assert fingerprint_of_input(str(tmp_path / "two/mtx")) not in marks
