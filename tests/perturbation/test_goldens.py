"""Tables of the field's own packages, cell-eval 0.8.2 and cell-eval2 0.20.0, on synthetic counts."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from engine.perturbation import cell_eval, vcc2026
from engine.perturbation.differential import CountTests, LogTests, mean_of
from engine.perturbation.normalise import log_normalised
from engine.perturbation.populations import EnergyDistance, clustering_agreement

CONTROL = "non-targeting"


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden" / "celleval"


def _groups(path: Path) -> tuple[dict[str, sparse.csr_matrix], list[str]]:
    cells = anndata.read_h5ad(path)
    labels = cells.obs["target_gene"].astype(str).to_numpy()
    return {label: cells.X[labels == label] for label in np.unique(labels)}, list(cells.var_names)


@pytest.fixture(scope="module")
def sides(golden: Path) -> tuple[dict, dict, list[str]]:
    real, genes = _groups(golden / "synth_a_real_counts.h5ad")
    predicted, _ = _groups(golden / "synth_a_pred_counts.h5ad")
    return real, predicted, genes


def _logs(groups: dict) -> dict:
    return {label: log_normalised(counts, 1e4) for label, counts in groups.items()}


def test_rank_tests_are_those_of_pdex(golden: Path, sides: tuple) -> None:
    real, _, genes = sides
    logs = _logs(real)
    tests = LogTests(logs[CONTROL])
    table = pd.read_csv(golden / "synth_a_real_de.csv")
    for label, rows in table.groupby("target"):
        found = tests.test(logs[label])
        rows = rows.set_index("feature").loc[genes]
        np.testing.assert_allclose(found.p, rows["p_value"], rtol=1e-6, atol=2e-3)
        # Ties that only float32 or only float64 sees move p-values near 1; small ones agree.
        small = (rows["p_value"] < 0.1).to_numpy()
        np.testing.assert_allclose(found.p[small], rows["p_value"][small], rtol=1e-6)
        np.testing.assert_allclose(found.log2_fold_change, rows["log2_fold_change"], rtol=1e-4, atol=1e-5)
        assert ((found.fdr < 0.05) == (rows["fdr"] < 0.05)).all()


def test_metrics_are_those_of_cell_eval(golden: Path, sides: tuple) -> None:
    real, predicted, genes = sides
    real, predicted = _logs(real), _logs(predicted)
    labels = sorted(set(real) - {CONTROL})
    real_tests, predicted_tests = LogTests(real[CONTROL]), LogTests(predicted[CONTROL])
    controls = mean_of(real[CONTROL]), mean_of(predicted[CONTROL])
    rows = {}
    for label in labels:
        means = mean_of(real[label]), mean_of(predicted[label])
        rows[label] = cell_eval.array_metrics(*means, *controls) | cell_eval.differential_metrics(
            real_tests.test(real[label]), predicted_tests.test(predicted[label])
        )
    table = pd.DataFrame(rows).T
    table["de_spearman_sig"] = cell_eval.significance_agreement(
        table["de_nsig_counts_real"].to_numpy(), table["de_nsig_counts_pred"].to_numpy()
    )
    deltas = [np.stack([mean_of(side[label]) for label in labels]) for side in (real, predicted)]
    deltas = [delta - control for delta, control in zip(deltas, controls, strict=True)]
    targets = [np.array([genes.index(label)]) for label in labels]
    for distance in cell_eval.DISTANCES:
        table[f"discrimination_score_{distance}"] = cell_eval.discrimination(*deltas, targets, distance)
    expected = pd.read_csv(golden / "synth_a_celleval_results.csv").set_index("perturbation").loc[labels]
    energies = [EnergyDistance(side[CONTROL]) for side in (real, predicted)]
    away = [
        np.array([energy.of(side[label]) for label in labels])
        for energy, side in zip(energies, (real, predicted), strict=True)
    ]
    table["pearson_edistance"] = cell_eval.pearson(*away)
    means = [np.stack([mean_of(side[label]) for label in labels]) for side in (real, predicted)]
    table["clustering_agreement"] = clustering_agreement(*means)
    assert set(expected) == set(table)
    for name in expected:
        # Theirs of pairs of cells are in float32.
        rtol = 5e-6 if name == "pearson_edistance" else 2e-6
        np.testing.assert_allclose(table[name], expected[name], rtol=rtol, atol=5e-7, err_msg=name)

    base = pd.read_csv(golden / "synth_a_celleval_meanbaseline_agg.csv").set_index("statistic").loc["mean"]
    scored = cell_eval.scores(table.mean().to_dict(), base.astype(float).to_dict())
    scale = pd.read_csv(golden / "synth_a_celleval_score_vs_meanbaseline.csv").set_index("metric")
    for name, value in scored.items():
        if name != "avg_score":
            assert value == pytest.approx(scale.loc[name, "from_baseline"], rel=1e-5, abs=1e-6), name


def test_metrics_are_those_of_vcc2026(golden: Path, sides: tuple) -> None:
    real, predicted, genes = sides
    labels = sorted(set(real) - {CONTROL})
    targets = [np.array([genes.index(label)]) for label in labels]
    tests = CountTests(real[CONTROL])
    rows = {
        label: vcc2026.differential_metrics(tests.test(real[label]), tests.test(predicted[label]), genes_)
        for label, genes_ in zip(labels, targets, strict=True)
    }
    table = pd.DataFrame(rows).T
    control = vcc2026.Profile.of(real[CONTROL])
    truth = [vcc2026.Profile.of(real[label]) for label in labels]
    guess = [vcc2026.Profile.of(predicted[label]) for label in labels]
    error, effect = vcc2026.squared_errors(truth, guess, control, targets)
    deltas = [np.stack([one.bulk_G for one in side]) - control.bulk_G for side in (truth, guess)]
    table["pds_cosine"] = vcc2026.discrimination(*deltas, targets)
    table["expr_mse_unbiased_capped"], table["expr_distance_unbiased"] = error, effect
    expected = pd.read_csv(golden / "synth_a_celleval2_vcc2026.csv")
    expected = expected.pivot(index="perturbation", columns="metric", values="value").loc[labels]
    for name in table:
        theirs = [one for one in expected if one.removeprefix("de_wilcoxon_").removesuffix("_raw") == name]
        np.testing.assert_allclose(table[name], expected[theirs[0]], rtol=1e-9, err_msg=name)
    whole = pd.read_csv(golden / "synth_a_celleval2_vcc2026_agg.csv").set_index("metric")["mean"]
    norm = vcc2026.normalised_error(error, effect)
    assert norm == pytest.approx(whole["expr_mse_unbiased_capped_norm"], rel=1e-9)
