"""The negative binomial, and where a model starts."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from engine.models import bimamba
from tests.models.bimamba.small_models import GENES, basal, small_config, small_model


def test_negative_binomial_is_scipy_s() -> None:
    random = np.random.default_rng(0)
    log_mean, log_theta = random.uniform(-9, 8, 500), random.uniform(-5, 6, 500)
    mean, theta = np.exp(log_mean), np.exp(log_theta)
    counts = random.negative_binomial(theta, theta / (theta + mean)).astype(np.float64)
    expected = -scipy.stats.nbinom.logpmf(counts, theta, theta / (theta + mean))
    found = bimamba.negative_binomial_loss(*(torch.tensor(part) for part in (counts, log_mean, log_theta)))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
    halves = bimamba.negative_binomial_loss(
        *(torch.tensor(part, dtype=torch.float32) for part in (counts, log_mean, log_theta))
    )
    np.testing.assert_allclose(halves, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("mean", [0.2, 5.0, 40.0])
def test_a_constant_fits_the_mean_of_the_counts(mean: float) -> None:
    """With the probability the wrong way round the optimum is theta^2 / mean, at the same loss."""
    counts_C1 = torch.tensor(np.random.default_rng(1).negative_binomial(2, 2 / (2 + mean), (4000, 1)))
    log_mean = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    log_theta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_mean, log_theta], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = bimamba.negative_binomial_loss(counts_C1, log_mean, log_theta).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert log_mean.exp().item() == pytest.approx(counts_C1.double().mean().item(), rel=1e-4)
    assert log_theta.exp().item() == pytest.approx(2, rel=0.4)


@torch.no_grad()
def test_an_untrained_model_predicts_that_nothing_changes() -> None:
    conditions = bimamba.Conditions.of([[3], []])
    linear = bimamba.create(small_config(n_targets=0), GENES)
    assert torch.equal(linear(basal(2), conditions).mean_BG, basal(2))
    counted = bimamba.create(small_config(n_targets=0, head="probabilistic"), GENES)
    found = counted(basal(2), conditions, torch.tensor([500.0, 3000.0]))
    rates_BG = basal(2).expm1() + counted.config.basal_floor
    expected_BG = rates_BG / rates_BG.sum(1, keepdim=True) * torch.tensor([[500.0], [3000.0]])
    torch.testing.assert_close(found.mean_BG, expected_BG)
    torch.testing.assert_close(found.mean_BG.sum(1), torch.tensor([500.0, 3000.0]))
    assert torch.equal(found.delta_BG, torch.zeros(2, len(GENES)))


@torch.no_grad()
def test_controls_keep_their_basal_state_after_training() -> None:
    model = small_model(drug_dim=3)
    conditions = bimamba.Conditions.of([[], [], [4]], torch.ones(3, 3), torch.tensor([0.0, 2.0, 0.0]))
    found = model(basal(3), conditions)
    assert torch.equal(found.mean_BG[0], basal(3)[0])
    assert (found.delta_BG[1:].abs().max(1).values > 0).all()


@torch.no_grad()
def test_samples_have_the_predicted_mean_and_variance() -> None:
    model = small_model(head="probabilistic")
    found = model(basal(1), bimamba.Conditions.of([[3]]), torch.tensor([2000.0]))
    generator = torch.Generator().manual_seed(0)
    drawn_SG = torch.stack([found.sample(generator)[0] for _ in range(3000)]).double()
    error_G = (drawn_SG.var(0) / len(drawn_SG)).sqrt() + 1e-3
    assert ((drawn_SG.mean(0) - found.mean_BG[0]).abs() < 5 * error_G).all()
    theta_G = found.dispersion_G
    assert theta_G is not None
    expected_G = found.mean_BG[0] + found.mean_BG[0] ** 2 / theta_G
    assert (drawn_SG.var(0) / expected_G).median() == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="linear head"):
        small_model()(basal(1), bimamba.Conditions.of([[3]])).sample()


@torch.no_grad()
def test_expected_counts_as_log_normalised_expression() -> None:
    found = small_model(head="probabilistic")(basal(1), bimamba.Conditions.of([[3]]), torch.tensor([321.0]))
    share_BG = found.mean_BG / found.mean_BG.sum(1, keepdim=True)
    torch.testing.assert_close(found.log_normalised(1e4), (1e4 * share_BG).log1p(), rtol=1e-4, atol=1e-4)
