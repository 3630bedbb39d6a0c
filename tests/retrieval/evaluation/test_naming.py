"""Shares, F1, AUROC by both conventions and calibration, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from engine.retrieval.annotation.zero_shot import softmax
from engine.retrieval.evaluation.naming import aurocs, calibration, naming


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    """Scores with an offset a cell, which is what sets the two conventions of AUROC apart."""
    random = np.random.default_rng(0)
    label_C = random.choice(5, 400, p=[0.5, 0.2, 0.2, 0.1, 0])  # the fifth never occurs
    score_CL = random.normal(size=(400, 5)) + 3 * random.normal(size=(400, 1))
    score_CL[np.arange(400), label_C] += 1.2
    return score_CL, label_C


def test_against_scikit_learn(scored) -> None:
    score_CL, label_C = scored
    found, best_C = naming(score_CL, label_C), score_CL.argmax(1)
    present = np.unique(label_C)
    of_present = {"labels": present, "average": "macro", "zero_division": 0}
    assert found["top_1"] == accuracy_score(label_C, best_C)
    np.testing.assert_allclose(found["macro_f1"], f1_score(label_C, best_C, **of_present))
    np.testing.assert_allclose(found["macro_precision"], precision_score(label_C, best_C, **of_present))
    np.testing.assert_allclose(found["macro_accuracy"], recall_score(label_C, best_C, **of_present))
    raw = [roc_auc_score(label_C == label, score_CL[:, label]) for label in present]
    probability = softmax(score_CL)
    soft = [roc_auc_score(label_C == label, probability[:, label]) for label in present]
    np.testing.assert_allclose(found["macro_auroc_raw"], np.mean(raw))
    np.testing.assert_allclose(found["macro_auroc_softmax"], np.mean(soft))
    assert found["macro_auroc_softmax"] > found["macro_auroc_raw"] + 0.1
    assert np.isnan(aurocs(score_CL, label_C)[4])
    five = (np.argsort(-score_CL, 1)[:, :5] == label_C[:, None]).any(1).mean()
    assert found["top_5"] == five


def test_ties_do_not_help() -> None:
    found = naming(np.zeros((6, 3)), np.array([0, 0, 1, 1, 2, 2]))
    assert found["top_1"] == found["macro_f1"] == 0
    assert found["macro_auroc_raw"] == 0.5


def test_calibration_by_hand() -> None:
    probability = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    found = calibration(np.log(probability), np.array([0, 1, 0, 1]))
    np.testing.assert_allclose(found["ece"], (2 * abs(0.9 - 0.5) + 0.4 + 0.2) / 4)
    assert [row["n_cells"] for row in found["reliability"]] == [1, 1, 2]
    above = {row["confidence"]: row for row in found["thresholds"]}
    assert above[0.7]["named"] == 0.75
    np.testing.assert_allclose(above[0.7]["accuracy"], 2 / 3)
    assert above[0.99]["accuracy"] is None
