"""Units, targets and controls, from tables and from a survey."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from engine.interpret.steering import activity
from engine.interpret.steering.activity import (
    SurveyedActivity,
    TabledActivity,
    label_directions,
    like_density,
    survey,
)
from engine.interpret.steering.edits import Unit
from engine.models import sae
from engine.models.interventions import Reading
from storage.errors import InputError
from tests.models.small_models import small_geneformer, small_tahoe, tokens_of

Q = Unit("quantile", 0.5)


def test_units_and_targets_of_surveyed_codes() -> None:
    codes = np.array([[1, 0, 0], [3, 0, 2], [2, 0, 0], [0, 0, 9], [0, 0, 0], [4, 0, 0]], np.float32)
    gene_T = np.array([5, 5, 5, 7, 8, 8])
    found = SurveyedActivity(sparse.csr_matrix(codes), gene_T)
    np.testing.assert_allclose(found.density_F, [4 / 6, 0, 2 / 6])
    assert [found.unit(0, unit) for unit in (Unit(), Q, Unit("absolute"))] == [4, 2.5, 1]
    assert found.unit(1, Unit()) == 0
    assert found.top_genes(0, 5) == [5]  # gene 8 is seen on two tokens only
    assert found.top_genes(1, 5) == []


def test_units_and_targets_of_tables() -> None:
    features = pd.DataFrame({"feature": [0, 2], "density": [0.5, 0.1], "max_activation": [4.0, 9.0]})
    histogram = pd.DataFrame(
        {"feature": [0, 0], "bin": [3, 4], "low": [1.0, 2.0], "high": [2.0, 5.0], "n_tokens": [30, 10]}
    )
    genes = pd.DataFrame({"feature": [0, 0, 2], "rank": [1, 0, 0], "gene": [11, 12, 13]})
    tables = SimpleNamespace(features=features, top_genes=genes, table={"histograms": histogram}.__getitem__)
    found = TabledActivity(tables, 3)  # type: ignore[arg-type]
    assert found.density_F.tolist() == [0.5, 0, 0.1]
    assert [found.unit(feature, Unit()) for feature in range(3)] == [4, 0, 9]
    assert found.unit(0, Q) == pytest.approx(1 + 20 / 30)
    assert found.unit(0, Unit("quantile", 1.0)) == 4  # never above the largest seen
    assert found.unit(1, Q) == 0
    assert found.top_genes(0, 1) == [12]


def test_a_large_survey_keeps_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, model = small_tahoe(), sae.create(16, 64, 8, seed=1)
    tokens = tokens_of(encoder, 40)
    options = {"layer_hook": "final", "pool": "cls"}
    everything = survey(encoder, Reading(model), tokens, "embed", batch_tokens=100, **options).activity
    monkeypatch.setattr(activity, "SURVEY_TOKENS", tokens.n_tokens / 2)
    one, other = (
        survey(encoder, Reading(model), tokens, "embed", batch_tokens=budget, **options).activity
        for budget in (100, 5000)
    )
    assert 0.4 < len(one._gene_T) / len(everything._gene_T) < 0.6
    assert sorted(one._gene_T) == sorted(other._gene_T)


def test_a_control_is_as_dense_and_not_taken() -> None:
    density_F = np.concatenate([np.full(20, 0.1), np.full(20, 0.001), [0.0]])
    drawn = {like_density(density_F, 3, [4, 5], seed) for seed in range(200)}
    assert drawn <= set(range(20)) - {3, 4, 5}
    assert len(drawn) > 5
    assert like_density(density_F, 3, [4], 7) == like_density(density_F, 3, [4], 7)
    with pytest.raises(InputError, match="no control for feature 0"):
        like_density(np.array([0.5, 0.0]), 0, [], 0)


@pytest.mark.parametrize("build", [small_tahoe, small_geneformer])
def test_a_survey_is_of_gene_tokens_in_any_batches(build) -> None:  # type: ignore[no-untyped-def]
    encoder, autoencoder = build(), sae.create(16, 64, 8, seed=1)
    tokens = tokens_of(encoder, 20)
    label_C = np.arange(20, dtype=np.int32) % 3 - 1
    options = {"layer_hook": "final", "pool": "mean", "label_C": label_C, "n_labels": 2}
    one, many = (
        survey(
            encoder, Reading.of(encoder, autoencoder), tokens, "resid_post_0", batch_tokens=budget, **options
        )
        for budget in (100_000, 60)
    )
    packed = encoder.packed(tokens)
    with torch.no_grad():
        x_TD = encoder(packed, ("resid_post_0",)).hooks["resid_post_0"][encoder.is_gene(packed.ids_T)]
    expected_F = (autoencoder.encode(x_TD) > 0).float().mean(0)
    for found in (one, many):
        np.testing.assert_allclose(found.activity.density_F, expected_F, atol=1e-6)
    e_CD = encoder.embed(tokens, layer=-1, pool="mean").double().numpy()
    known = ~np.isnan(e_CD).any(axis=1)
    first, second = (e_CD[known & (label_C == label)].mean(axis=0) for label in (0, 1))
    expected_D = (first - second) / np.linalg.norm(first - second)
    np.testing.assert_allclose(label_directions(many)[0], expected_D, atol=1e-5)
    np.testing.assert_allclose(label_directions(many)[1], -expected_D, atol=1e-5)
