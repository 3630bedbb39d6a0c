"""`train-encoder` from the command line, in this process: what it writes, repeats and refuses."""

import json
from pathlib import Path

import pytest

from engine import models
from jobs.train_encoder import main

SMALL = ["--layers", "1", "--d-model", "16", "--heads", "2", "--max-tokens", "64", "--workers", "0"]


def command(cells: str, output: Path, *flags: str, steps: str = "3") -> list[str]:
    given = ["--cells", cells, "--output", str(output), "--steps", steps, "--batch-cells", "8", *flags]
    return given if "--arch" in flags else [*given, "--arch", "tahoe"]


def test_a_model_directory_with_its_record(
    cells: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(cells, tmp_path / "out", *SMALL, "--json")) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert printed["lineage"] == record["lineage"]
    assert record["counts_in"] == {"cells": 300}
    assert record["counts_out"]["steps"] == 3
    assert record["throughput"]["tokens_per_second"] > 0
    assert record["peak_memory_bytes"]["worker"] > 1 << 20
    assert models.load(tmp_path / "out").d_model == 16
    assert main(command(cells, tmp_path / "out", *SMALL)) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--arch", "geneformer", "--model", "ENCODER"], "--arch is geneformer"),
        (["--model", "ENCODER", "--layers", "3"], "--layers"),
        (["--model", "ENCODER", "--max-tokens", "5000"], "--max-tokens 5000"),
        (["--size", "900b"], "900b"),
        (["--layers", "1", "--d-model", "15", "--heads", "2"], "d_model 15"),
        (["--accumulation", "3"], "multiple of 3"),
        (["--lr", "-1"], "learning rate"),
        (["--balance", "tissue"], "obs has no 'tissue'"),
        (["--balance", "kind", "--balance-temperature", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    cells: str,
    encoder_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    reason: str,
) -> None:
    given = [str(encoder_directory) if flag == "ENCODER" else flag for flag in flags]
    assert main(command(cells, tmp_path / "out", *given, "--workers", "0")) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_run_in_the_output_is_refused(
    cells: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(cells, tmp_path / "out", *SMALL, steps="2")) == 0
    before = (tmp_path / "out/run.json").read_bytes()
    assert main(command(cells, tmp_path / "out", *SMALL, "--seed", "7", steps="2")) == 2
    assert "* training.seed" in capsys.readouterr().err
    assert (tmp_path / "out/run.json").read_bytes() == before
    assert main(command(cells, tmp_path / "out", *SMALL, "--seed", "7", "--overwrite", steps="2")) == 0


def test_geneformer_from_scratch_takes_medians_of_the_store(
    cells: str, tmp_path: Path, ray_cluster: None
) -> None:
    assert main(command(cells, tmp_path / "out", *SMALL, "--arch", "geneformer")) == 0
    medians = json.loads((tmp_path / "out/gene_median_dictionary.json").read_text())
    assert len(medians) == 120
    assert all(median > 0 for median in medians.values())
