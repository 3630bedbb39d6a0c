"""Counts of what fires against dense arrays."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score

from engine.interpret.evaluation.activity import Activity, cell_codes, unit_of
from engine.interpret.evaluation.cell_bins import CellBins
from engine.interpret.evaluation.dictionaries import Activations
from engine.interpret.evaluation.tables import best_labels, label_table

FEATURES, GENES, CELLS, LABELS, PER_CELL = 6, 9, 30, 3, 10


class Case:
    """Whole cells of ten tokens each; feature 5 never fires, feature 4 on one gene alone."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        n_tokens = CELLS * PER_CELL
        self.a_TF = np.maximum(rng.standard_normal((n_tokens, FEATURES)), 0).astype(np.float32)
        self.gene_T = rng.integers(0, GENES, n_tokens)
        self.a_TF[:, 5] = 0
        self.a_TF[self.gene_T != 2, 4] = 0
        self.cell_T = np.repeat(np.arange(CELLS), PER_CELL)
        self.label_C = rng.integers(-1, LABELS, CELLS)
        # Label 0 is what feature 0 tells.
        self.a_TF[:, 0] += 2 * (self.label_C[self.cell_T] == 0)

    def activity(self, cells: slice) -> Activity:
        rows = np.flatnonzero(np.isin(self.cell_T, np.arange(CELLS)[cells]))
        token_N, feature_N = np.nonzero(self.a_TF[rows])
        fired = Activations(token_N, feature_N, self.a_TF[rows][token_N, feature_N])
        slot_T = self.cell_T[rows] - self.cell_T[rows[0]]
        activity = Activity.empty(FEATURES, GENES, LABELS)
        codes = cell_codes(fired, slot_T, slot_T[-1] + 1)
        activity.add(fired, codes, self.gene_T[rows], self.label_C[cells], CellBins(), unit_of(8.0))
        return activity


@pytest.fixture
def case() -> Case:
    return Case()


def test_counts_entropy_and_ranks_equal_dense_ones(case: Case) -> None:
    activity = case.activity(slice(None))
    np.testing.assert_array_equal(activity.tokens_F, (case.a_TF > 0).sum(0))
    peak_CF = case.a_TF.reshape(CELLS, PER_CELL, FEATURES).max(1)
    np.testing.assert_array_equal(activity.cells_F, (peak_CF > 0).sum(0))
    mass_GF = np.stack([case.a_TF[case.gene_T == gene].sum(0, dtype=np.float64) for gene in range(GENES)])
    found_F = activity.gene_entropy()
    np.testing.assert_allclose(found_F[:5], entropy(mass_GF[:, :5], base=2), atol=1e-5)
    assert found_F[4] == 0
    assert np.isnan(found_F[5])
    cells_L = np.bincount(case.label_C[case.label_C >= 0], minlength=LABELS)
    names = ["a", "b", "c"]
    table = label_table(activity.levels, CellBins().n_levels, activity.cells_F > 0, cells_L, names)
    assert set(table["feature"]) == set(range(5))
    known = case.label_C >= 0
    for row in table.itertuples():
        wanted_C = case.label_C[known] == names.index(row.label)
        assert row.auroc == pytest.approx(roc_auc_score(wanted_C, peak_CF[known, row.feature]), abs=1e-12)
    best = best_labels(table.assign(cells=99)).set_index("feature")
    assert best.loc[0, "best_label"] == "a"
    first, second = table[table["feature"] == 0]["auroc"].nlargest(2)
    assert best.loc[0, "label_margin"] == pytest.approx(first - second)


def test_states_of_cells_merge_to_the_whole(case: Case) -> None:
    whole, merged = case.activity(slice(None)), case.activity(slice(20, None))
    merged.merge(case.activity(slice(0, 20)))
    for name in ("tokens_F", "cells_F"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
    for name in ("units", "levels"):
        np.testing.assert_array_equal(np.stack(getattr(merged, name)), np.stack(getattr(whole, name)))


def test_rare_labels_are_nobodys_best(case: Case) -> None:
    activity = case.activity(slice(None))
    cells_L = np.bincount(case.label_C[case.label_C >= 0], minlength=LABELS)
    table = label_table(activity.levels, CellBins().n_levels, activity.cells_F > 0, cells_L, ["a", "b", "c"])
    assert best_labels(table.assign(cells=np.where(table["label"] == "a", 5, 50)))["best_label"].ne("a").all()
