"""A file with each fault, and what is said about it; the real files pass."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from storage.validation import Choices, FileReport, Vocabulary, survey
from tests.storage import inputs


def report(adata: anndata.AnnData, folder: Path, **choices: str) -> FileReport:
    adata.write_h5ad(folder / "cells.h5ad")
    return survey(str(folder / "cells.h5ad"), Choices(**choices)).report


def codes(found: FileReport) -> dict[str, str]:
    return {finding.code: finding.severity for finding in found.findings}


def plain() -> anndata.AnnData:
    """Cells about which there is nothing to say."""
    adata = inputs.cells()
    dense = adata.X.toarray()
    dense[:, 0] = 1  # no cell is empty
    adata.X = sparse.csr_matrix(dense)
    del adata.obs["note"]
    return adata


class TestFaults:
    """Each test puts one fault into otherwise sound cells."""

    def test_none(self, tmp_path: Path) -> None:
        assert codes(report(plain(), tmp_path)) == {}

    def test_log_normalised(self, tmp_path: Path) -> None:
        adata = plain()
        adata.X = adata.X.astype(np.float32).log1p()
        assert codes(report(adata, tmp_path)) == {"not-counts": "error"}

    def test_two_faults_are_both_told(self, tmp_path: Path) -> None:
        adata = plain()
        adata.X = adata.X.astype(np.float32).log1p()
        adata.var = adata.var[["gene_name"]]
        assert codes(report(adata, tmp_path)) == {"not-counts": "error", "no-gene-ids": "error"}

    def test_empty_cells(self, tmp_path: Path) -> None:
        adata = inputs.cells()
        dense = adata.X.toarray()
        dense[:5] = 0
        adata.X = sparse.csr_matrix(dense)
        found = report(adata, tmp_path)
        (finding,) = [finding for finding in found.findings if finding.code == "empty-cells"]
        assert (finding.severity, finding.how_many) == ("warning", 5)

    def test_obs_columns(self, tmp_path: Path) -> None:
        adata = anndata.AnnData(inputs.counts(600, 40), var=inputs.cells().var)
        adata.obs["many"] = pd.Categorical([f"type {i}" for i in range(600)])
        adata.obs["kept"] = True
        path = tmp_path / "cells.h5ad"
        adata.obs["text"] = "x"
        adata.write_h5ad(path, convert_strings_to_categoricals=False)
        found = codes(survey(str(path), Choices()).report)
        assert found == {"object-column": "warning", "many-categories": "warning"}

    def test_layouts(self, tmp_path: Path) -> None:
        adata = plain()
        adata.obsm["X_good"] = np.full((60, 2), np.nan, np.float32)
        adata.obsm["other"] = np.full((60, 1), np.inf)
        adata.obsm["X_flat"] = np.zeros((60, 1))
        adata.obsm["X_far"] = np.array([[np.inf, 0]] * 60)
        adata.obsm["X_frame"] = pd.DataFrame({"a": np.zeros(60), "b": 0}, index=adata.obs_names)
        found = report(adata, tmp_path)
        assert sorted((finding.code, finding.where) for finding in found.findings) == [
            ("bad-layout", "obsm['X_flat']"),
            ("bad-layout", "obsm['X_frame']"),
            ("infinite-layout", "obsm['X_far']"),
        ]

    def test_repeated_cell_names(self, tmp_path: Path) -> None:
        adata = plain()
        adata.obs_names = ["same", "same", *adata.obs_names[2:]]
        assert codes(report(adata, tmp_path)) == {"repeated-cell-names": "warning"}

    def test_other_features(self, tmp_path: Path) -> None:
        adata = plain()
        adata.var["feature_types"] = ["Gene Expression"] * 38 + ["Antibody Capture"] * 2
        assert codes(report(adata, tmp_path)) == {"other-features": "warning"}

    def test_zero_cells_and_zero_bytes(self, tmp_path: Path) -> None:
        assert codes(report(plain()[:0].copy(), tmp_path)) == {"zero-cells": "error"}
        (tmp_path / "nothing.h5ad").touch()
        found = survey(str(tmp_path / "nothing.h5ad"), Choices()).report
        assert codes(found) == {"unreadable": "error"}
        assert "0 bytes" in found.text()

    def test_truncated(self, tmp_path: Path) -> None:
        plain().write_h5ad(tmp_path / "whole.h5ad")
        (tmp_path / "cut.h5ad").write_bytes((tmp_path / "whole.h5ad").read_bytes()[:9000])
        found = survey(str(tmp_path / "cut.h5ad"), Choices()).report
        assert codes(found) == {"unreadable": "error"}
        assert "truncated" in found.text()


def test_10x_antibodies_are_left_out(tmp_path: Path) -> None:
    import h5py

    path = inputs.write_10x_h5(tmp_path / "matrix.h5", inputs.counts())
    with h5py.File(path, "a") as root:
        root["matrix/features/feature_type"][-3:] = b"Antibody Captu"  # the field is 15 bytes wide
    result = survey(str(path), Choices())
    assert "other-features" in codes(result.report)
    assert result.genes is not None
    assert len(result.genes.var) == 37
    assert result.genes.of_column.tolist() == [*range(37), -1, -1, -1]


def test_report_is_json(tmp_path: Path) -> None:
    import json

    found = report(inputs.cells(), tmp_path)
    again = json.loads(json.dumps(found.as_json()))
    assert {finding["code"] for finding in again["findings"]} == {"object-column"} | set(codes(found))


def test_vocabulary(tmp_path: Path) -> None:
    inputs.cells().write_h5ad(tmp_path / "cells.h5ad")
    known = survey(str(tmp_path / "cells.h5ad"), Choices(), Vocabulary([f"ENSG{i:011d}" for i in range(40)]))
    assert "100% of the counts" in known.report.vocabulary
    unknown = survey(str(tmp_path / "cells.h5ad"), Choices(), Vocabulary(["ENSG99999999999"]))
    assert codes(unknown.report)["low-vocabulary-match"] == "error"


def test_real_files_have_no_errors(shared: Path) -> None:
    for path in sorted((shared / "data").glob("*.h5ad")):
        found = survey(str(path), Choices()).report
        assert not found.errors, found.text()
        assert ("non-human" in codes(found)) == path.name.startswith("mouse")
