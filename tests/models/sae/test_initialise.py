"""Fresh autoencoders, and the one-off scale of the encoder."""

import pytest
import torch

from engine.models import sae
from tests.models.sae.small import ALL_ARCHITECTURES


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_directions_norms_and_threshold(architecture: str) -> None:
    config = sae.SAEConfig(architecture, 16, 64, k=4)
    fresh = sae.initialise(
        config, sae.InitOptions(decoder_norm=0.1, encoder_scale=3.0, threshold=0.2), seed=1
    )
    torch.testing.assert_close(fresh.W_dec.norm(dim=1), torch.full((64,), 0.1))
    torch.testing.assert_close(fresh.W_enc, 3 * fresh.W_dec.T)
    assert not fresh.b_dec.any()
    if architecture == "jumprelu":
        assert bool((fresh.threshold == 0.2).all())
    assert torch.equal(sae.initialise(config, seed=2).W_dec, sae.initialise(config, seed=2).W_dec)


def test_a_transcoder_begins_with_directions_of_its_own() -> None:
    config = sae.SAEConfig("batchtopk", 16, 64, k=4, apply_b_dec_to_input=False, d_out=8, skip=True)
    fresh = sae.initialise(config)
    torch.testing.assert_close(fresh.W_enc.norm(dim=0), torch.ones(64))
    torch.testing.assert_close(fresh.W_dec.norm(dim=1), torch.ones(64))
    assert not fresh.W_skip.any()


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["topk", "standard", "jumprelu"])
def test_the_fitted_scale_is_the_best(architecture: str) -> None:
    x_BD = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    fresh = sae.initialise(sae.SAEConfig(architecture, 16, 64, k=4))
    assert sae.fit_encoder_scale(fresh, x_BD) > 0

    def error(factor: float) -> float:
        scaled = sae.initialise(fresh.config)
        scaled.load_state_dict(fresh.state_dict())
        scaled.W_enc.mul_(factor)
        if architecture == "jumprelu":
            scaled.threshold.mul_(factor)
        return float((scaled(x_BD) - x_BD).square().sum())

    assert error(1.0) < min(error(0.95), error(1.05))
    assert sae.fit_encoder_scale(fresh, x_BD) == pytest.approx(1.0, abs=1e-4)
