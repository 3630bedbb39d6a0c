"""`attribute` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from jobs.attribute import main
from tests.streaming.inputs import geneformer_model, genes, small_counts, small_store, tahoe_model

__all__ = ["geneformer_model", "genes", "small_counts", "small_store", "tahoe_model"]


@pytest.fixture
def flags(small_store: Path, tmp_path: Path) -> list[str]:
    from engine.models import sae

    sae.save(sae.create(32, 64, 16, seed=3, metadata={"hook_name": "resid_post_0"}), tmp_path / "sae")
    paths = ["--sae", str(tmp_path / "sae"), "--cells", str(small_store)]
    return [*paths, "--max-cells", "8", "--max-tokens", "64", "--ablated", "5", "--top-share", "0.2"]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("metric", ["loss", "label:CD14+ monocyte"])
def test_ranks_features_and_says_how_far_ablation_agrees(
    flags: list[str],
    geneformer_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    metric: str,
) -> None:
    output = tmp_path / "attribution"
    command = [*flags, "--model", str(geneformer_model), "--metric", metric, "--label", "cell_type"]
    command += ["--output", str(output)]
    assert main(command) == 0
    features = pd.read_parquet(output / "features.parquet")
    assert features["exact"].notna().sum() == 5
    assert features["integrated"].notna().sum() == 13
    assert features["effect"].abs().is_monotonic_decreasing
    body = json.loads((output / "metrics.json").read_text())
    assert body["metric"] == metric
    assert body["n_cells"] == 8
    assert body["agreement_with_ablation"]["patching"]["n_features"] == 5
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--metric", "accuracy"], "--metric accuracy: expected loss, gene:GENE"),
        (["--metric", "gene:NOSUCH"], "--metric: the model knows no gene NOSUCH"),
        (["--metric", "label:B cell"], "say with --label which obs column"),
        (["--metric", "label:Z cell", "--label", "cell_type"], "cell_type has no value 'Z cell'"),
        (["--metric", "label:B cell", "--label", "cell_type", "--survey-cells", "1"], "Raise --survey-cells"),
        (["--top-share", "2"], "--top-share is 2"),
        (["--ablated", "0"], "--ablated is 0"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    flags: list[str],
    tahoe_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    reason: str,
) -> None:
    assert main([*flags, "--model", str(tahoe_model), *more, "--output", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_head_that_the_model_does_not_have(
    flags: list[str], geneformer_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*flags, "--model", str(geneformer_model), "--metric", "mvc:MALAT1"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    assert "this encoder predicts logit" in capsys.readouterr().err
