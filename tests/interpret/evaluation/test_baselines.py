"""What an autoencoder must beat: bases, and the frozen decoder."""

from __future__ import annotations

from itertools import repeat

import pytest
import torch
from sklearn.decomposition import PCA

from engine.interpret.evaluation.baselines import Statistics, principal_directions
from engine.interpret.evaluation.dictionaries import Autoencoder, SignedBasis, activations_of
from engine.interpret.evaluation.frozen_decoder import train_frozen
from engine.models import sae

WIDTH, FEATURES, K = 12, 48, 3


@pytest.fixture
def activations() -> torch.Tensor:
    """Sparse sums of 20 directions about a far-off mean."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(20, WIDTH, generator=generator), dim=1)
    active = torch.rand(800, 20, generator=generator) < 0.1
    return (active * torch.rand(800, 20, generator=generator)) @ directions + 7.0


def _error(x_TD: torch.Tensor, r_TD: torch.Tensor) -> float:
    return float((x_TD - r_TD).square().sum() / (x_TD - x_TD.mean(0)).square().sum())


def test_principal_directions_explain_what_scikit_learn_says(activations: torch.Tensor) -> None:
    x_TD = activations
    mean_D = x_TD.mean(0)
    explained = SignedBasis(mean_D, K, principal_directions(x_TD, mean_D, K)).explain(x_TD)
    pca = PCA(K).fit(x_TD.double().numpy())
    assert _error(x_TD, explained.r_TD) == pytest.approx(1 - pca.explained_variance_ratio_.sum(), abs=1e-4)
    assert ((explained.value_TK > 0).sum(1) == K).all()


def test_neurons_keep_those_furthest_from_the_mean(activations: torch.Tensor) -> None:
    x_TD = activations
    mean_D = x_TD.mean(0)
    explained = SignedBasis(mean_D, K).explain(x_TD)
    kept_TD = explained.r_TD != mean_D
    assert (kept_TD.sum(1) == K).all()
    torch.testing.assert_close(explained.r_TD[kept_TD], x_TD[kept_TD])
    away_TD = (x_TD - mean_D).abs()
    assert (away_TD[kept_TD].view(-1, K).min(1).values >= away_TD.masked_fill(kept_TD, 0).max(1).values).all()
    # Along and against a neuron are two features.
    against_TK = explained.index_TK % 2 == 1
    z_TK = (x_TD - mean_D).gather(1, explained.index_TK // 2)
    assert ((z_TK < 0) == against_TK).all()


def test_only_the_encoder_of_the_frozen_decoder_learns(activations: torch.Tensor) -> None:
    x_TD = activations
    fresh = sae.create(WIDTH, FEATURES, K, seed=0)
    found = Statistics.of(x_TD, fresh)
    directions_FD = fresh.W_dec.detach().clone()
    untrained = Autoencoder(sae.fold_input_scaling(fresh, found.mean_D, found.scale))
    before = _error(x_TD, untrained.explain(x_TD).r_TD)
    trained = train_frozen(fresh, repeat(x_TD), 60, found.mean_D, found.scale)
    after = _error(x_TD, Autoencoder(trained).explain(x_TD).r_TD)
    assert after < 0.9 * before
    cosine_F = torch.nn.functional.cosine_similarity(trained.W_dec, directions_FD)
    torch.testing.assert_close(cosine_F, torch.ones(FEATURES))


def test_statistics_know_the_mean_the_scale_and_the_active_features(activations: torch.Tensor) -> None:
    x_TD = activations
    found = Statistics.of(x_TD, sae.create(WIDTH, FEATURES, K, seed=0))
    scaled_TD = (x_TD - found.mean_D) * found.scale
    assert float(scaled_TD.square().sum(1).mean()) == pytest.approx(WIDTH, rel=1e-4)
    assert found.k == K


def test_activations_count_tokens_on() -> None:
    codes = SignedBasis(torch.zeros(3), 1).explain(torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0]]))
    fired = activations_of(codes, first_token=10)
    assert (fired.token_N.tolist(), fired.feature_N.tolist(), fired.value_N.tolist()) == ([10], [2], [2.0])
