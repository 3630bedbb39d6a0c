"""The running threshold, and the calibrated one: what is exported fires as often as what was trained."""

from pathlib import Path

import pytest
import torch

from engine.models import sae
from engine.models.errors import ModelError

K = 4


def tokens(seed: int, n: int = 512) -> torch.Tensor:
    return (
        torch.randn(n, 16, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.5, 2, n)[:, None]
    )


def trained(architecture: str = "batchtopk") -> sae.TrainingModule:
    config = sae.SAEConfig(architecture, 16, 128, k=K, rescale_acts_by_decoder_norm=True)
    options = sae.ObjectiveOptions(matryoshka_widths=(32, 128), path="sparse")
    return sae.objective(config, options)


def mean_l0(autoencoder: sae.SAE, x_BD: torch.Tensor) -> float:
    return float((autoencoder.encode(x_BD) > 0).sum(1).float().mean())


def test_the_first_batch_sets_the_running_threshold() -> None:
    module = trained()
    first = module(tokens(0)).metrics["threshold"].item()
    assert mean_l0(module.sae, tokens(0)) == pytest.approx(K, abs=0.05)
    second = module(2 * tokens(0)).metrics["threshold"].item()
    assert second == pytest.approx(0.99 * first + 0.01 * 2 * first, rel=1e-5)


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_calibration_meets_k_on_held_out_tokens(architecture: str, tmp_path: Path) -> None:
    module = trained(architecture)
    batches = [tokens(seed) for seed in range(1, 5)]
    threshold = sae.calibrate_threshold(module.sae, batches)
    assert module.sae.topk_threshold.item() == threshold
    assert mean_l0(module.sae, torch.cat(batches)) == pytest.approx(K, abs=1e-3)
    sae.save(module.sae, tmp_path)
    exported = sae.load(tmp_path)
    assert exported.config.architecture == "jumprelu"
    assert mean_l0(exported, torch.cat(batches)) == pytest.approx(K, abs=1e-2)
    assert sae.calibrate_threshold(module.sae, batches, k=2.5) > threshold
    assert mean_l0(module.sae, torch.cat(batches)) == pytest.approx(2.5, abs=1e-3)


def test_fewer_positive_scores_than_wanted() -> None:
    module = trained()
    with torch.no_grad():
        module.sae.b_enc.fill_(-1e6)
    assert sae.calibrate_threshold(module.sae, [tokens(0)]) == 0.0


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(ModelError, match="no running threshold"):
        sae.calibrate_threshold(sae.create(4, 8, 2), [])
    with pytest.raises(ModelError, match="no tokens"):
        sae.calibrate_threshold(trained().sae, [])
