"""`perturb-in-silico` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from jobs.perturb_in_silico import main
from tests.streaming.inputs import geneformer_model, genes, small_counts, small_store

__all__ = ["geneformer_model", "genes", "small_counts", "small_store"]


@pytest.fixture
def flags(small_store: Path, geneformer_model: Path) -> list[str]:
    return ["--cells", str(small_store), "--model", str(geneformer_model), "--max-cells", "12"]


@pytest.mark.usefixtures("ray_cluster")
def test_writes_shifts_towards_a_goal(
    flags: list[str],
    tmp_path: Path,
    small_counts,
    capsys: pytest.CaptureFixture[str],  # type: ignore[no-untyped-def]
) -> None:
    goal = str(small_counts.obs["cell_type"].iloc[0])
    output = tmp_path / "shifts"
    command = [*flags, "--genes", "MALAT1,B2M,CD74", "--max-tokens", "64", "--output", str(output)]
    command += ["--label", "cell_type", "--goal", goal]
    assert main(command) == 0
    record = json.loads((output / "run.json").read_text())
    table = pd.read_parquet(output / "perturbations.parquet")
    assert record["counts_out"]["perturbations"] == len(table) == 3
    assert record["counts_out"]["pairs"] == table["n_cells"].sum() > 0
    assert table["towards_goal"].notna().all()
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--genes", "NOSUCH"], "knows no gene NOSUCH"),
        (["--label", "cell_type"], "--label and --goal belong together"),
        (["--goal-cells", "0"], "--goal-cells is 0"),
        (["--layer", "9"], "layer 9 does not exist"),
        (["--max-tokens", "2"], "leaves no room"),
        (["--batch-tokens", "0"], "--batch-tokens is 0"),
        (["--kind", "drug"], "--kind drug, which needs them"),
        (["--drugs", "aspirin"], "belong to --kind drug"),
        (["--kind", "drug", "--drugs", "aspirin"], "only Tahoe-x1 models have one"),
    ],
)
def test_what_cannot_be_done_is_refused(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], reason: str
) -> None:
    assert main([*flags, *more, "--output", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
