"""Predictions that need no training, against their definitions written out."""

import numpy as np
import pytest

from engine.perturbation.baselines import COMPONENTS, PENALTY, Known, predict

GENES = [f"G{number}" for number in range(9)]
TARGETS = [("G0",), ("G1",), ("G2",), ("G3",), ("G0", "G1"), ("G4",)]
CONTEXTS = ["left", "left", "left", "right", "left", "right"]


@pytest.fixture
def known() -> Known:
    rng = np.random.default_rng(0)
    rows = {gene: number for number, gene in enumerate(GENES)}
    return Known(rng.normal(0, 1, (6, 9)), TARGETS, CONTEXTS, rng.gamma(2, 1, 9), rows)


def test_the_linear_baseline_is_its_closed_form(known: Known) -> None:
    """Ahlmann-Eltze, Huber and Anders 2025: W = (G'G + lI)^-1 G' Y P (P'P + lI)^-1 with Y less its means."""
    profiles_GP = (known.delta_PG + known.control_G).T
    left, size, _ = np.linalg.svd(profiles_GP - profiles_GP.mean(axis=0), full_matrices=False)
    side_GK = (left * size)[:, :COMPONENTS]
    hit_PK = np.array([sum(side_GK[known.rows[gene]] for gene in genes) for genes in TARGETS])
    centred_GP = (known.delta_PG - known.delta_PG.mean(axis=0)).T
    eye = PENALTY * np.eye(side_GK.shape[1])
    left_inverse, right_inverse = (
        np.linalg.inv(side_GK.T @ side_GK + eye),
        np.linalg.inv(hit_PK.T @ hit_PK + eye),
    )
    weights = left_inverse @ side_GK.T @ centred_GP @ hit_PK @ right_inverse
    expected = known.delta_PG.mean(axis=0) + side_GK @ weights @ side_GK[known.rows["G7"]]
    np.testing.assert_allclose(predict("ridge", known, ("G7",), "left"), expected, rtol=1e-8)


def test_means_sums_and_silence(known: Known) -> None:
    deltas = known.delta_PG
    assert not predict("control", known, ("G7",), "left").any()
    np.testing.assert_allclose(predict("mean_delta", known, ("G7",), "left"), deltas.mean(axis=0))
    np.testing.assert_allclose(predict("context_mean", known, ("G7",), "right"), deltas[[3, 5]].mean(axis=0))
    np.testing.assert_allclose(predict("same_perturbation", known, ("G3",), "left"), deltas[3])
    np.testing.assert_allclose(predict("additive", known, ("G1", "G2"), "left"), deltas[1] + deltas[2])
    assert predict("additive", known, ("G1", "G7"), "left") is None
    assert predict("context_mean", known, ("G7",), "middle") is None
    assert predict("same_perturbation", known, ("G7",), "left") is None
    assert predict("ridge", known, ("nobody",), "left") is None


def test_leaving_one_out_leaves_out_all_that_share_a_target(known: Known) -> None:
    assert [*known.without(0).targets] == [("G1",), ("G2",), ("G3",), ("G4",)]
    assert [*known.without(4).targets] == [("G2",), ("G3",), ("G4",)]
