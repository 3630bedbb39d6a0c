"""The TopK objective beyond the golden step: what AuxK reaches, and that training works."""

import pytest
import torch

from engine.models import sae
from engine.models.errors import ModelError


def batch(n_tokens: int = 256) -> torch.Tensor:
    """Sparse sums of 20 directions in 16 dimensions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(20, 16, generator=generator), dim=1)
    codes = torch.rand(n_tokens, 20, generator=generator) * (
        torch.rand(n_tokens, 20, generator=generator) < 0.1
    )
    return codes @ directions * 4


def test_training_explains_more_of_the_variance() -> None:
    training = sae.TrainingModule(sae.create(16, 64, 4))
    optimizer = torch.optim.Adam(training.parameters(), lr=3e-3)
    fvu = []
    for _ in range(150):
        found = training(batch())
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        fvu.append(found.metrics["fvu"].item())
    assert fvu[-1] < 0.3 * fvu[0]
    assert found.metrics["l0"].item() <= 4


def test_without_dead_features_there_is_no_auxiliary_loss() -> None:
    training = sae.TrainingModule(sae.create(16, 64, 4))
    nobody = torch.zeros(64, dtype=torch.bool)
    assert training(batch(), nobody).metrics["aux"].item() == 0.0
    assert training(batch(), nobody).loss.item() == training(batch()).loss.item()


def test_only_dead_features_learn_from_the_residual() -> None:
    """With the live part of the loss taken out, gradients reach the dead features' rows alone."""
    training = sae.TrainingModule(sae.create(16, 64, 4))
    dead_F = torch.arange(64) % 8 == 0
    found = training(batch(), dead_F)
    live = training(batch())
    (found.loss - live.loss).backward()
    touched = training.sae.W_dec.grad.abs().sum(1) > 1e-4  # type: ignore[union-attr]
    assert touched.any()
    assert not touched[~dead_F].any()


def test_the_auxiliary_loss_counts_less_with_few_dead_features() -> None:
    coefficient_1, coefficient_2 = (
        sae.TrainingModule(sae.create(16, 64, 4), sae.ObjectiveOptions(aux_coefficient=c)) for c in (1.0, 2.0)
    )
    one = torch.arange(64) == 3
    aux = [training(batch(), one).metrics["aux"].item() for training in (coefficient_1, coefficient_2)]
    assert aux[1] == pytest.approx(2 * aux[0])
    x_BD = batch()
    residual = x_BD - coefficient_1.sae.decode(coefficient_1.sae.encode(x_BD))
    assert aux[0] < residual.pow(2).sum(1).mean().item()  # scaled by 1 dead / (16 / 2)


def test_fired_features() -> None:
    training = sae.TrainingModule(sae.create(16, 64, 4))
    found = training(batch(3))
    assert torch.equal(found.fired_F, (training.sae.encode(batch(3)) > 0).any(0))
    assert found.fired_F.sum() <= 12


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_learns_another_activation(skip: bool) -> None:
    """A nonlinear target: features explain it, and with a skip connection its linear part comes cheaper."""
    config = sae.SAEConfig("batchtopk", 16, 64, k=4, apply_b_dec_to_input=False, d_out=8, skip=skip)
    training = sae.objective(config, sae.ObjectiveOptions(path="sparse"))
    linear = torch.randn(16, 8, generator=torch.Generator().manual_seed(5))
    optimiser = torch.optim.Adam(training.parameters(), lr=1e-2)
    for _ in range(60):
        found = training(batch(), torch.arange(64) < 8, (batch() @ linear).relu())
        optimiser.zero_grad()
        found.loss.backward()
        optimiser.step()
    assert found.metrics["fvu"].item() < 0.3
    assert bool(training.sae.W_skip.any()) if skip else not hasattr(training.sae, "W_skip")


@pytest.mark.parametrize(
    "architecture", ["standard", "gated", "jumprelu", "batchtopk", "matryoshka_batchtopk"]
)
def test_every_architecture_learns(architecture: str) -> None:
    options = sae.ObjectiveOptions(
        sparsity_coefficient=0.05, bandwidth=0.5, matryoshka_widths=(16,), path="sparse", aux_relative=True
    )
    training = sae.objective(sae.SAEConfig(architecture, 16, 64, k=4), options)
    optimiser = torch.optim.Adam(training.parameters(), lr=3e-3)
    fvu = []
    for _ in range(60):
        found = training(batch(), torch.arange(64) < 4)
        optimiser.zero_grad()
        found.loss.backward()
        optimiser.step()
        fvu.append(found.metrics["fvu"].item())
    assert fvu[-1] < 0.5 * fvu[0]


def test_knobs_change_the_next_step() -> None:
    training = sae.objective(sae.SAEConfig("batchtopk", 16, 64, k=4))
    training.k = 1.5
    assert training(batch()).metrics["l0"].item() == pytest.approx(1.5, abs=0.01)
    penalised = sae.objective(sae.SAEConfig("standard", 16, 64))
    before = penalised(batch()).metrics["sparsity"].item()
    penalised.sparsity_coefficient = 0.25
    assert penalised(batch()).metrics["sparsity"].item() == pytest.approx(0.25 * before)


def test_thresholds_stay_float32_and_positive() -> None:
    training = sae.objective(sae.SAEConfig("jumprelu", 16, 64)).bfloat16()
    assert training.sae.threshold.dtype == torch.float32
    with torch.no_grad():
        training.sae.threshold.fill_(-1.0)
    training(batch()).loss.backward()
    assert not training.sae.threshold.any()
    assert training.sae.threshold.grad is not None
    assert (
        sae.objective(sae.SAEConfig("batchtopk", 16, 64, k=2)).half().sae.topk_threshold.dtype
        == torch.float64
    )


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="train on activations scaled beforehand"):
        sae.TrainingModule(sae.SAE(sae.SAEConfig("standard", 4, 8, normalize_activations="layer_norm")))
    with pytest.raises(ModelError, match="the quadratic penalty needs one up to 8"):
        sae.objective(sae.SAEConfig("jumprelu", 4, 8), sae.ObjectiveOptions(sparsity_mode="quadratic"))
    for widths in ((), (4, 2), (4, 9)):
        with pytest.raises(ModelError, match="expected ascending widths"):
            sae.objective(
                sae.SAEConfig("matryoshka_batchtopk", 4, 8, k=2),
                sae.ObjectiveOptions(matryoshka_widths=widths),
            )
    with pytest.raises(ModelError, match="a target belongs to transcoders"):
        sae.TrainingModule(sae.create(16, 64, 4))(batch(), target_BO=batch())
