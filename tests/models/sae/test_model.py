"""Folds of sparse autoencoders: same support, same reconstruction, for every architecture."""

import dataclasses

import pytest
import torch

from engine.models import sae
from engine.models.errors import ModelError
from engine.models.sae.model import FEATURE_PARAMETERS
from tests.models.sae.small import ALL_ARCHITECTURES, random_sae


@pytest.fixture
def x_BD() -> torch.Tensor:  # noqa: N802
    return torch.randn(200, 12, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("apply_b_dec", [True, False])
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_input_scaling_folds(architecture: str, apply_b_dec: bool, x_BD: torch.Tensor) -> None:
    trained = random_sae(architecture, apply_b_dec_to_input=apply_b_dec)
    mean_D, scale = torch.linspace(-20, 20, 12), 0.3
    folded = sae.fold_input_scaling(trained, mean_D, scale)
    raw_BD = x_BD / scale + mean_D
    a_BF, found_BF = trained.encode(x_BD), folded.encode(raw_BD)
    assert torch.equal(found_BF != 0, a_BF != 0)
    expected_BF = a_BF / scale if "topk" in architecture else a_BF
    torch.testing.assert_close(found_BF, expected_BF, rtol=1e-3, atol=1e-4)
    r_BD, expected_BD = folded.decode(found_BF), trained.decode(a_BF) / scale + mean_D
    assert float((r_BD - expected_BD).abs().max()) <= 5e-7 * float(expected_BD.abs().max())
    assert folded.config.metadata["input_scale"] == scale


@torch.no_grad()
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_decoder_norms_fold(architecture: str, x_BD: torch.Tensor) -> None:
    trained = random_sae(architecture)
    folded = sae.fold_decoder_norm(trained)
    torch.testing.assert_close(folded.W_dec.norm(dim=1), torch.ones(48))
    a_BF, found_BF = trained.encode(x_BD), folded.encode(x_BD)
    assert torch.equal(found_BF != 0, a_BF != 0)
    r_BD, expected_BD = folded.decode(found_BF), trained.decode(a_BF)
    assert float((r_BD - expected_BD).abs().max()) <= 5e-7 * float(expected_BD.abs().max())


def test_folds_leave_the_original_alone() -> None:
    trained = random_sae("topk")
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    sae.fold_decoder_norm(trained)
    sae.fold_input_scaling(trained, torch.ones(12), 2.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.state_dict().items())


def test_folds_that_would_change_the_support_are_refused() -> None:
    trained = random_sae("topk")
    trained.config = dataclasses.replace(trained.config, rescale_acts_by_decoder_norm=False)
    with pytest.raises(ModelError, match="changes its support"):
        sae.fold_decoder_norm(trained)
    with pytest.raises(ModelError, match="cannot be combined with a mean"):
        sae.fold_input_scaling(
            random_sae("standard", normalize_activations="layer_norm"), torch.zeros(12), 1.0
        )


@torch.no_grad()
def test_topk_keeps_k_and_then_rectifies() -> None:
    trained = random_sae("topk")
    x_BD = torch.zeros(1, 12)
    trained.W_enc.zero_()
    trained.b_dec.zero_()
    trained.b_enc.fill_(-1.0)
    trained.b_enc[:3] = 1.0
    a_BF = trained.encode(x_BD)
    assert a_BF.nonzero()[:, 1].tolist() == [0, 1, 2]  # k is 5, but two of the best are negative


@torch.no_grad()
def test_any_float_input_and_leading_axes(x_BD: torch.Tensor) -> None:
    trained = random_sae("topk")
    expected = trained.encode(x_BD)
    assert torch.equal(trained.encode(x_BD.double()), expected)
    assert torch.equal(trained.encode(x_BD.view(10, 20, 12)).view(200, 48), expected)


@torch.no_grad()
def test_bfloat16_weights_give_float32_activations(x_BD: torch.Tensor) -> None:
    half = random_sae("jumprelu", dtype="bfloat16")
    a_BF = half.encode(x_BD)
    assert half.W_enc.dtype == torch.bfloat16
    assert a_BF.dtype == half.decode(a_BF).dtype == torch.float32


def test_create() -> None:
    fresh = sae.create(12, 48, 5, seed=1, metadata={"hook_name": "resid_post_1"})
    torch.testing.assert_close(fresh.W_dec.norm(dim=1), torch.ones(48))
    assert torch.equal(fresh.W_enc, fresh.W_dec.T)
    assert not fresh.b_enc.any()
    assert fresh.config.metadata == {"hook_name": "resid_post_1"}
    assert torch.equal(sae.create(12, 48, 5, seed=1).W_dec, fresh.W_dec)


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_parameters_are_saelens(architecture: str) -> None:
    names = {"W_enc", "W_dec", "b_dec", *FEATURE_PARAMETERS[architecture]}
    names |= {"topk_threshold"} if "batchtopk" in architecture else set()
    assert set(random_sae(architecture).state_dict()) == names
