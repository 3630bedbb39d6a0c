"""`steer` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from jobs.steer import main
from tests.streaming.inputs import genes, small_counts, small_store, tahoe_model

__all__ = ["genes", "small_counts", "small_store", "tahoe_model"]


@pytest.fixture
def flags(small_store: Path, tahoe_model: Path, tmp_path: Path) -> list[str]:
    from engine.models import sae

    sae.save(sae.create(32, 64, 16, seed=3, metadata={"hook_name": "resid_post_0"}), tmp_path / "sae")
    paths = ["--sae", str(tmp_path / "sae"), "--cells", str(small_store), "--model", str(tahoe_model)]
    return [*paths, "--max-cells", "8", "--max-tokens", "64", "--survey-cells", "8"]


@pytest.mark.usefixtures("ray_cluster")
def test_writes_effects_beside_their_controls(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "effects"
    command = [*flags, "--edits", "7:*3,9:ablate", "--doses", "0.5,1", "--label", "cell_type"]
    command += ["--targets", "MALAT1,B2M,RPL13,TMSB4X,RPS27", "--output", str(output)]
    assert main(command) == 0
    record = json.loads((output / "run.json").read_text())
    assert record["counts_out"]["cells"] == 8
    assert record["counts_out"]["versions"] == 9
    assert record["facts"]["quantities"] == ["expression", "mvc"]
    assert len(pd.read_parquet(output / "cells")) == 8 * 8
    assert pd.read_parquet(output / "genes.parquet")["is_target"].any()
    (experiment,) = json.loads((output / "metrics.json").read_text())["experiments"]
    assert experiment["targets"] == ["MALAT1", "B2M", "RPL13", "TMSB4X", "RPS27"]
    kinds = ["edit", "wrong_sign", "random_feature", "noise"]
    assert [version["kind"] for version in experiment["versions"]] == 2 * kinds
    assert any(name.startswith("towards_") for name in experiment["versions"][0])
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main([*command, "--doses", "2"]) == 2
    assert "doses" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--edits", "7:up"], "cannot read '7:up'"),
        (["--edits", "64:ablate"], "feature 64 does not exist"),
        (["--edits", "7:ablate", "--doses", "x"], "--doses x: expected numbers"),
        (["--edits", "7:ablate", "--doses", "1,1"], "--doses 1,1: expected one or more different"),
        (["--edits", "7:ablate", "--unit", "mode"], "--unit mode: expected max, absolute"),
        (["--edits", "7:ablate", "--controls", "placebo"], "'placebo' is none; there are random_feature"),
        (["--edits", "7:ablate", "--targets", "NOSUCH"], "--targets: the model knows no gene NOSUCH"),
        (["--edits", "7:ablate", "--on-genes", "NOSUCH"], "--on-genes: the model knows no gene NOSUCH"),
        (["--edits", "7:ablate", "--survey-cells", "0"], "--survey-cells is 0"),
        (["--edits", "7:ablate", "--layer", "9"], "layer 9 does not exist"),
        (["--edits", "7:ablate", "--hook", "embed"], "was trained at resid_post_0"),
        (["--edits", "7:ablate", "--batch-tokens", "0"], "--batch-tokens is 0"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], reason: str
) -> None:
    assert main([*flags, *more, "--output", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
