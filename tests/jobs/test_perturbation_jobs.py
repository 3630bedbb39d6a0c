"""Train, predict, evaluate: the street of perturbations on a small screen, through the command line."""

import json
from pathlib import Path

import anndata
import numpy as np
import pytest

from jobs import evaluate_perturbation, predict_perturbation, train_perturbation
from tests.perturbation.screens import small_screen, small_store


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `store`, `real.h5ad` and `model`, which has not seen G1 or its combination."""
    folder = tmp_path_factory.mktemp("street")
    store = small_store(folder)
    small_screen(seed=0).write_h5ad(folder / "real.h5ad")
    flags = ["--perturbation", "target", "--control", "non-targeting", "--context", "line"]
    sizes = ["--d-model", "8", "--layers", "1", "--members", "2", "--pathway-dim", "4", "--steps", "3"]
    where = ["--cells", store, "--held-out", "G1", "--workers", "0", "--output", str(folder / "model")]
    assert train_perturbation.main([*flags, *sizes, *where]) == 0
    return folder


def _predict(folder: Path, output: Path, *more: str) -> int:
    where = ["--model", str(folder / "model"), "--cells", str(folder / "store"), "--output", str(output)]
    return predict_perturbation.main([*where, *more])


def test_predictions_of_held_out_targets_are_scored_beside_baselines(trained: Path, tmp_path: Path) -> None:
    held_out = json.loads((trained / "model" / "metrics.json").read_text())
    assert held_out["n_held_out"] == 4  # G1 and G0+G1 in two contexts
    contenders = held_out["contenders"]
    assert contenders["model"]["mae"] < contenders["control"]["mae"]
    assert contenders["replicate"]["pearson_delta"] > 0.5
    output = tmp_path / "cells.h5ad"
    asked = ["--perturbations", "G1,G0+G1", "--cells-per-perturbation", "40"]
    assert _predict(trained, output, *asked) == 0
    cells = anndata.read_h5ad(output)
    assert cells.obs["target_gene"].value_counts().to_dict() == {
        "G1": 80,
        "G0+G1": 80,
        "non-targeting": 60,
    }
    assert set(cells.obs["cell_type"]) == {"left", "right"}
    assert cells.X.max() < 15
    assert cells.varm["uncertainty"].shape == (24, 4)
    evaluated = ["--real", str(trained / "real.h5ad"), "--predicted", str(output)]
    flags = ["--perturbation", "target", "--output", str(tmp_path / "scores")]
    assert evaluate_perturbation.main([*evaluated, *flags]) == 0
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["baselines_know"] == "the real perturbations without a prediction"
    found = metrics["contenders"]
    assert found["prediction"]["pearson_delta"] > found["mean_delta"]["pearson_delta"]


def test_the_2026_upload_is_counts_without_controls_and_an_equal_run_does_nothing(
    trained: Path, tmp_path: Path
) -> None:
    output = tmp_path / "upload.h5ad"
    asked = ["--perturbations", "G1", "--contract", "vcc2026", "--cells-per-perturbation", "20"]
    assert _predict(trained, output, *asked) == 0
    cells = anndata.read_h5ad(output)
    assert list(cells.obs.columns) == ["target_gene", "context"]
    assert set(cells.obs["target_gene"]) == {"G1"}
    assert cells.n_obs == 40
    assert (cells.X.data == np.rint(cells.X.data)).all()
    assert cells.X.data.min() >= 1
    assert list(cells.var_names) == [f"G{number}" for number in range(24)]
    written = output.stat().st_mtime_ns
    assert _predict(trained, output, *asked) == 0
    assert output.stat().st_mtime_ns == written
    assert _predict(trained, output, *asked, "--seed", "1") == 2
    assert output.stat().st_mtime_ns == written


def test_gears_writes_singles_with_the_control_and_a_mean_is_one_row(trained: Path, tmp_path: Path) -> None:
    asked = ["--perturbations", "G1", "--contract", "gears", "--cells-per-perturbation", "0"]
    assert _predict(trained, tmp_path / "gears.h5ad", *asked) == 0
    cells = anndata.read_h5ad(tmp_path / "gears.h5ad")
    assert set(cells.obs["condition"]) == {"G1+ctrl", "ctrl"}
    row = cells[(cells.obs["condition"] == "G1+ctrl") & (cells.obs["cell_type"] == "left")].X.toarray()
    np.testing.assert_allclose(row[0], cells.varm["mean"][:, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--perturbations", "NOPE"], "knows nothing of: NOPE"),
        (["--perturbations", "non-targeting"], "the control is no perturbation"),
        (["--perturbations", "G1", "--control", "ctrl"], "no cell has the control label"),
        (["--perturbations", "G1", "--contract", "vcc2026", "--cells-per-perturbation", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_predicted_is_refused_and_nothing_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert _predict(trained, tmp_path / "x.h5ad", *more) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.h5ad").exists()


def test_screens_that_cannot_be_trained_on_are_refused_before_anything_is_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--cells", str(trained / "store"), "--perturbation", "target", "--workers", "0"]
    output = ["--output", str(tmp_path / "out")]
    assert train_perturbation.main([*flags, *output, "--control", "ctrl"]) == 2
    assert "no cell has the control label 'ctrl'" in capsys.readouterr().err
    assert train_perturbation.main([*flags, *output, "--control", "non-targeting", "--held-out", "Z"]) == 2
    assert "no such perturbation" in capsys.readouterr().err
    assert train_perturbation.main([*flags, *output, "--control", "non-targeting", "--split", "context"]) == 2
    assert "--context" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_counts_of_a_held_out_context_are_predicted_from_its_control_cells(
    trained: Path, tmp_path: Path
) -> None:
    flags = ["--perturbation", "target", "--control", "non-targeting", "--context", "line"]
    split = ["--split", "context", "--held-out", "right", "--head", "probabilistic", "--no-prior"]
    sizes = ["--d-model", "8", "--layers", "1", "--members", "1", "--pathway-dim", "0", "--steps", "2"]
    where = ["--cells", str(trained / "store"), "--workers", "0", "--output", str(tmp_path / "model")]
    cells = ["--cells-per-condition", "4", "--conditions", "4"]
    assert train_perturbation.main([*flags, *split, *sizes, *where, *cells]) == 0
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert (metrics["n_training"], metrics["n_held_out"]) == (6, 6)
    assert "same_perturbation" in metrics["contenders"]
    where = ["--model", str(tmp_path / "model"), "--cells", str(trained / "store")]
    asked = ["--perturbations", "G2", "--output", str(tmp_path / "p.h5ad"), "--contract", "scperturb"]
    assert predict_perturbation.main([*where, *asked, "--cells-per-perturbation", "5"]) == 0
    found = anndata.read_h5ad(tmp_path / "p.h5ad")
    assert set(found.obs["cell_line"]) == {"left", "right"}


def test_a_dry_run_says_what_three_billion_parameters_take(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--cells", "-", "--perturbation", "target", "--control", "c", "--dry-run", "--genes", "18080"]
    shape = ["--d-model", "2560", "--layers", "51", "--members", "1", "--conditions", "32", "--workers", "8"]
    how = ["--zero", "2", "--precision", "bf16"]
    assert train_perturbation.main([*flags, *shape, *how, "--checkpoint-layers"]) == 0
    text = capsys.readouterr().out
    assert "parameters          3," in text
    assert "GB of 141.00 GB" in text
    assert train_perturbation.main([*flags, *shape, *how, "--gpu-memory", "80"]) == 2
    assert "--checkpoint-layers" in capsys.readouterr().err
