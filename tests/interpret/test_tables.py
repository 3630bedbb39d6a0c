"""The tables against brute force."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from engine.interpret.gene_ranking import TableOptions
from engine.interpret.tables import tabulate
from tests.interpret.small_pass import FEATURES, GENES, LABELS, SmallPass


def test_top_genes_are_normalised_by_occurrence() -> None:
    case = SmallPass.random(0)
    tables = tabulate(case.whole(), case.names, TableOptions(top_genes=3))
    rows = case.gene_tokens
    for feature in range(FEATURES):
        activation = pd.Series(case.activations[rows, feature]).groupby(case.gene_T[rows])
        score = activation.mean()
        score = score[activation.max() > 0].sort_values(ascending=False, kind="stable")[:3]
        found = tables.top_genes[tables.top_genes["feature"] == feature]
        assert found["gene"].tolist() == score.index.tolist()
        np.testing.assert_allclose(found["score"], score, rtol=1e-6)
        assert found["gene_name"].tolist() == [f"GENE{gene}" for gene in score.index]
        assert found["rank"].tolist() == list(range(len(score)))
        assert (found["n"] <= found["occurrences"]).all()
        np.testing.assert_allclose(found["sum"] / found["occurrences"], found["score"])


def test_rare_genes_can_be_left_out_of_the_ranking() -> None:
    case = SmallPass.random(0)
    tables = tabulate(case.whole(), case.names, TableOptions(top_genes=GENES, min_gene_tokens=34))
    assert (tables.top_genes["occurrences"] >= 34).all()
    assert len(tables.top_genes) > 0


def test_top_cells_carry_max_and_mean() -> None:
    case = SmallPass.random(1, top_cells=4)
    tables = tabulate(case.whole(), case.names, TableOptions(top_genes=1))
    rows = case.gene_tokens
    for feature in range(FEATURES):
        by_cell = pd.Series(case.activations[rows, feature]).groupby(case.cell_T[rows])
        peak = by_cell.max()
        expected = peak[peak > 0].sort_values(ascending=False, kind="stable")[:4]
        found = tables.top_cells[tables.top_cells["feature"] == feature]
        assert found["cell"].tolist() == expected.index.tolist()
        np.testing.assert_array_equal(found["max_activation"], expected.to_numpy())
        np.testing.assert_allclose(found["mean_activation"], by_cell.mean()[expected.index], rtol=1e-6)
        assert found["cell_name"].tolist() == [f"cell{cell}" for cell in expected.index]


def test_feature_rows_describe_every_feature() -> None:
    case = SmallPass.random(2)
    table = tabulate(case.whole(), case.names, TableOptions(top_genes=2)).features
    rows, a_TF = case.gene_tokens, case.activations
    assert table["feature"].tolist() == list(range(FEATURES))
    silent = table.iloc[FEATURES - 1]
    assert silent["n_tokens"] == silent["max_activation"] == 0
    assert pd.isna(silent["top_gene"])
    for feature in range(FEATURES - 1):
        activation = a_TF[rows, feature]
        fired = activation[activation > 0]
        row = table.iloc[feature]
        assert row["n_tokens"] == fired.size
        assert row["density"] == fired.size / rows.size
        assert row["max_activation"] == fired.max()
        assert row["mean_activation"] == pytest.approx(fired.mean(), rel=1e-6)
        mass = pd.Series(activation).groupby(case.gene_T[rows]).sum()
        assert row["gene_entropy"] == pytest.approx(stats.entropy(mass, base=2), abs=1e-6)
        assert row["n_genes"] == (mass > 0).sum()


def test_label_rows_cover_every_firing_feature_once() -> None:
    case = SmallPass.random(3)
    tables = tabulate(case.whole(), case.names, TableOptions(top_genes=2))
    alive = tables.features.query("n_tokens > 0")["feature"].tolist()
    assert tables.labels["feature"].tolist() == np.repeat(alive, len(LABELS)).tolist()
    assert tables.labels["label"].tolist() == list(LABELS) * len(alive)
    np.testing.assert_allclose(
        tables.labels["fdr"], stats.false_discovery_control(tables.labels["p_value"].to_numpy())
    )
    best = tables.features.set_index("feature")
    for feature, rows in tables.labels.groupby("feature"):
        strongest = rows.loc[rows["rank_p_value"].idxmin()]
        assert best.loc[feature, "best_label"] == strongest["label"]
        assert best.loc[feature, "best_label_auroc"] == strongest["auroc"]


def test_without_labels_there_is_no_label_table() -> None:
    case = SmallPass.random(0)
    names = type(case.names)(case.names.gene_id_G, case.names.gene_name_G, case.names.cell_names)
    tables = tabulate(case.whole(), names, TableOptions(top_genes=2))
    assert tables.labels.empty
    assert "best_label" not in tables.features
    assert "label" not in tables.top_cells
