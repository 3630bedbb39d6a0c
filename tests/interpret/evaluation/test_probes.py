"""Sparse probes find planted features on cells, or groups of cells, they have not seen."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from engine.interpret.evaluation.probes import (
    ProbedCells,
    most_different,
    probe_table,
    scores_of_label,
    split,
)

CELLS, FEATURES, WIDTH = 240, 30, 8


@pytest.fixture
def labels() -> np.ndarray:
    return np.arange(CELLS) % 3


@pytest.fixture
def codes(labels: np.ndarray) -> sparse.csr_matrix:
    """Feature 7 tells label 0; the others are noise."""
    rng = np.random.default_rng(0)
    a_CF = np.maximum(rng.standard_normal((CELLS, FEATURES)), 0)
    a_CF[:, 7] = rng.random(CELLS) + 3 * (labels == 0)
    return sparse.csr_matrix(a_CF.astype(np.float32))


def test_one_feature_is_enough_for_what_it_tells(labels: np.ndarray, codes: sparse.csr_matrix) -> None:
    label_C = labels
    x_CD = np.random.default_rng(1).standard_normal((CELLS, WIDTH)).astype(np.float32)
    folds = split(label_C, np.zeros(CELLS, np.int64), seed=0)
    assert folds.held_out == "cells"
    cells = ProbedCells(x_CD, {"sae": codes}, label_C, folds, k_pca=2)
    assert cells.labels() == [0, 1, 2]
    scores = [score for label in cells.labels() for score in scores_of_label(cells, label)]
    table = probe_table(scores, ["a", "b", "c"])
    auroc = table.set_index(["representation", "k", "label"])["auroc"]
    assert auroc["sae", "1", "a"] > 0.99
    assert auroc["sae", "1", "b"] < 0.8
    assert abs(auroc["neurons_dense", "all", "a"] - 0.5) < 0.15
    assert set(auroc.index.get_level_values("representation")) == {"sae", "neurons_dense", "pca_dense"}
    assert (table["folds"] == 5).all()


def test_whole_groups_are_held_out_where_labels_recur(labels: np.ndarray) -> None:
    label_C = labels
    donor_C = np.arange(CELLS) // 80
    folds = split(label_C, donor_C, seed=0)
    assert folds.held_out == "groups"
    for train, test in folds.folds:
        assert not set(donor_C[train]) & set(donor_C[test])
    # Each label in a donor of its own: there is nothing to hold out but cells.
    assert split(label_C, label_C, seed=0).held_out == "cells"


def test_features_are_ranked_by_difference_in_spreads(labels: np.ndarray, codes: sparse.csr_matrix) -> None:
    label_C = labels
    assert most_different(codes, label_C == 0)[0] == 7
    far_CD = sparse.csr_matrix(codes.toarray()[:, :9] + 1000)
    assert most_different(far_CD, label_C == 0, centred=True)[0] == 7
