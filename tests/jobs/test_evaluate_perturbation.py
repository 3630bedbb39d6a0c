"""`evaluate-perturbation` on the goldens: the numbers of the packages, refusals, nothing done twice."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from jobs.evaluate_perturbation import main


@pytest.fixture
def golden(shared: Path) -> Path:
    return shared / "golden" / "celleval"


def _arguments(real: Path, predicted: Path, output: Path, *more: str) -> list[str]:
    return ["--real", str(real), "--predicted", str(predicted), "--output", str(output), *more]


def test_the_table_has_the_packages_numbers_beside_baselines(golden: Path, tmp_path: Path) -> None:
    files = golden / "synth_a_real_counts.h5ad", golden / "synth_a_pred_counts.h5ad"
    arguments = _arguments(*files, tmp_path / "out", "--baselines", "control,mean_delta,replicate")
    assert main(arguments) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    expected = pd.read_csv(golden / "synth_a_celleval_agg.csv").set_index("statistic").loc["mean"]
    ours = metrics["contenders"]["prediction"]
    names = ("pearson_delta", "mae", "discrimination_score_l1", "overlap_at_N", "de_spearman_sig")
    for name in (*names, "pearson_edistance", "clustering_agreement"):
        assert ours[name] == pytest.approx(float(expected[name]), rel=1e-5), name
    whole = pd.read_csv(golden / "synth_a_celleval2_vcc2026_agg.csv").set_index("metric")["mean"]
    assert ours["pds_cosine"] == pytest.approx(whole["pds_cosine"])
    assert ours["lfc_nmae"] == pytest.approx(whole["de_wilcoxon_lfc_nmae"])
    table = pd.read_parquet(tmp_path / "out" / "perturbations.parquet")
    assert set(table["contender"]) == {"prediction", "control", "mean_delta", "replicate"}
    assert metrics["contenders"]["replicate"]["pearson_delta"] > ours["pearson_delta"]
    assert metrics["vcc2026_scores"]["mean_delta"]["mean"] == pytest.approx(0)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "http" not in page
    assert page.count("<svg") == 12
    first = (tmp_path / "out" / "metrics.json").stat().st_mtime_ns
    assert main(arguments) == 0
    assert (tmp_path / "out" / "metrics.json").stat().st_mtime_ns == first


def test_a_prediction_in_another_contract_and_gene_order_scores_the_same(
    golden: Path, tmp_path: Path
) -> None:
    cells = anndata.read_h5ad(golden / "synth_a_pred_counts.h5ad")
    names = cells.obs["target_gene"].astype(str)
    cells.obs = pd.DataFrame(
        {"condition": np.where(names == "non-targeting", "ctrl", names + "+ctrl")}, index=cells.obs_names
    )
    cells[:, ::-1].copy().write_h5ad(tmp_path / "gears.h5ad")
    real = golden / "synth_a_real_counts.h5ad"
    flags = ("--baselines", "control", "--no-differential", "--distance-cells", "0")
    for name, predicted in (("a", golden / "synth_a_pred_counts.h5ad"), ("b", tmp_path / "gears.h5ad")):
        assert main(_arguments(real, predicted, tmp_path / name, *flags)) == 0
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in "ab")
    ours, theirs = first["contenders"]["prediction"], second["contenders"]["prediction"]
    assert ours == pytest.approx(theirs)


def test_what_cannot_be_scored_is_refused_and_nothing_written(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = anndata.read_h5ad(golden / "synth_a_pred_counts.h5ad")
    cells[:, :10].copy().write_h5ad(tmp_path / "few.h5ad")
    real = golden / "synth_a_real_counts.h5ad"
    assert main(_arguments(real, tmp_path / "few.h5ad", tmp_path / "out")) == 2
    assert "are not predicted" in capsys.readouterr().err
    cells.X = cells.X.multiply(-1).tocsr()
    cells.write_h5ad(tmp_path / "negative.h5ad")
    assert main(_arguments(real, tmp_path / "negative.h5ad", tmp_path / "out")) == 2
    assert "must not be negative" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
