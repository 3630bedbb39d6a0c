"""`ingest` and `check` as commands: exit codes, messages, run.json, nothing left behind."""

import json
from pathlib import Path

import anndata
import numpy as np
import pytest

from jobs import check, ingest
from storage.cells import CellStore
from tests.storage import inputs


def faulty(folder: Path, fault: str) -> Path:
    path, adata = folder / "cells.h5ad", inputs.cells()
    if fault == "log-normalised":
        adata.X = adata.X.astype(np.float32).log1p()
    elif fault == "without gene ids":
        adata.var = adata.var[["gene_name"]]
    elif fault == "duplicate ids":
        adata.var["ensembl_id"] = [adata.var["ensembl_id"].iloc[1], *adata.var["ensembl_id"].iloc[1:]]
    elif fault == "no cells":
        adata = adata[:0].copy()
    adata.write_h5ad(path)
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-5000])
    elif fault == "no bytes":
        path.write_bytes(b"")
    return path


FAULTS = {
    "truncated": "unreadable",
    "log-normalised": "not-counts",
    "without gene ids": "no-gene-ids",
    "duplicate ids": "duplicate-gene-ids",
    "no cells": "zero-cells",
    "no bytes": "0 bytes",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_gives_2_its_reason_and_no_output(
    tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = faulty(tmp_path, fault)
    assert ingest.main([str(path), "--output", str(tmp_path / "store")]) == 2
    told = capsys.readouterr().err
    assert FAULTS[fault] in told
    assert str(path) in told
    assert "Traceback" not in told
    assert not (tmp_path / "store").exists()
    assert check.main([str(path)]) == 2
    assert FAULTS[fault] in capsys.readouterr().out
    assert [entry.name for entry in tmp_path.iterdir()] == ["cells.h5ad"]


def test_ingest_writes_a_store_and_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs.cells().write_h5ad(tmp_path / "cells.h5ad")
    arguments = [str(tmp_path / "cells.h5ad"), "--output", str(tmp_path / "store"), "--shard-cells", "25"]
    assert ingest.main([*arguments, "--obs-columns", "score, kept"]) == 0
    assert CellStore.open(tmp_path / "store").obs_columns == ["score", "kept"]
    assert anndata.read_zarr(tmp_path / "store/dataset_2").shape == (10, 40)
    record = json.loads((tmp_path / "store/run.json").read_text())
    assert record["counts_out"]["cells"] == 60
    assert record["facts"]["reports"][0]["genes"].startswith("40 columns -> 40 genes")
    assert ingest.main([*arguments, "--obs-columns", "score, kept"]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert ingest.main(arguments) == 2
    assert "another lineage" in capsys.readouterr().err


def test_ingest_from_yaml(tmp_path: Path) -> None:
    inputs.cells().write_h5ad(tmp_path / "cells.h5ad")
    config = tmp_path / "ingest.yaml"
    config.write_text(f"files: [{tmp_path / 'cells.h5ad'}]\noutput: {tmp_path / 'store'}\nmax-cells: 7\n")
    assert ingest.main(["--config", str(config)]) == 0
    assert CellStore.open(tmp_path / "store").n_cells == 7


def test_without_files_or_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ingest.main(["--output", str(tmp_path / "store")]) == 2
    assert check.main([]) == 2
    assert "no input files" in capsys.readouterr().err
    inputs.cells().write_h5ad(tmp_path / "cells.h5ad")
    assert ingest.main([str(tmp_path / "cells.h5ad")]) == 2
    assert "--output is missing" in capsys.readouterr().err


def test_check_reports_as_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs.cells().write_h5ad(tmp_path / "cells.h5ad")
    model = tmp_path / "model"
    model.mkdir()
    (model / "vocab.json").write_text(json.dumps({f"ENSG{i:011d}": i for i in range(40)}))
    arguments = [
        str(tmp_path / "cells.h5ad"),
        "--output",
        str(tmp_path / "report.json"),
        "--model",
        str(model),
    ]
    assert check.main(arguments) == 0
    assert "100% of the counts" in capsys.readouterr().out
    (report,) = json.loads((tmp_path / "report.json").read_text())["reports"]
    assert report["findings"][0]["code"] == "object-column"
    (model / "vocab.json").write_text(json.dumps({"ENSMUSG00000000001": 0}))
    assert check.main(arguments) == 2
    assert "low-vocabulary-match" in capsys.readouterr().out
    assert check.main([str(tmp_path / "cells.h5ad"), "--model", str(tmp_path / "none")]) == 2
