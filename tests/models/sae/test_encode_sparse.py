"""`encode_sparse` is `encode` without its zeros, and `decode_sparse` is `decode`, for every architecture."""

import pytest
import torch

from engine.models import sae
from engine.models.errors import ModelError
from engine.models.sae import selection
from tests.models.sae.small import ALL_ARCHITECTURES, random_sae


def densified(codes: sae.SparseCodes, n_features: int) -> torch.Tensor:
    a_BF = torch.zeros(len(codes.index_BK), n_features)
    return a_BF.scatter_add(1, codes.index_BK, codes.value_BK)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_codes_are_the_activations(architecture: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MIN_ROWS", 64)
    monkeypatch.setitem(selection.CHUNK_BYTES, "cpu", 0)  # several chunks, the last one shorter
    model = random_sae(architecture, dtype=dtype)
    x_BD = torch.randn(200, 12, generator=torch.Generator().manual_seed(1))
    codes, a_BF = model.encode_sparse(x_BD), model.encode(x_BD)
    assert (codes.index_BK.dtype, codes.value_BK.dtype) == (torch.int64, torch.float32)
    found_BF = densified(codes, model.d_sae)
    assert torch.equal(found_BF != 0, a_BF != 0)
    torch.testing.assert_close(found_BF, a_BF, rtol=1e-5, atol=1e-6)
    assert bool((codes.value_BK.diff(dim=1) <= 0).all())
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == "float32" else {"rtol": 0.05, "atol": 0.5}
    torch.testing.assert_close(model.decode_sparse(codes, x_BD), model.decode(a_BF, x_BD), **tolerance)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_fewer_codes_are_the_largest(architecture: str) -> None:
    model, x_BD = random_sae(architecture), torch.randn(50, 12)
    whole, three = model.encode_sparse(x_BD), model.encode_sparse(x_BD, k=3)
    assert torch.equal(three.value_BK, whole.value_BK[:, :3])
    assert torch.equal(three.index_BK, whole.index_BK[:, :3])


@torch.no_grad()
def test_silent_tokens_and_no_tokens() -> None:
    model = random_sae("jumprelu")
    model.threshold.fill_(1e9)
    assert model.encode_sparse(torch.randn(5, 12)).index_BK.shape == (5, 0)
    assert model.encode_sparse(torch.randn(0, 12)).value_BK.shape == (0, 0)
    assert torch.equal(model.decode_sparse(model.encode_sparse(torch.randn(5, 12)))[0], model.b_dec)


def test_gradients_pass_through_encode() -> None:
    """Activations are computed in place; what autograd keeps must not be what is overwritten."""
    for architecture in ALL_ARCHITECTURES:
        model = random_sae(architecture).double()
        x_BD = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
        a_BF = model.encode(x_BD)
        gradients = torch.autograd.grad(a_BF.sum(), [x_BD, *model.parameters()], allow_unused=True)
        for parameter, gradient in zip((x_BD, *model.parameters()), gradients, strict=True):
            if gradient is None:
                continue
            step = 1e-4
            place = int(gradient.abs().argmax())
            with torch.no_grad():
                parameter.view(-1)[place] += step
                after = model.encode(x_BD).double().sum()
                parameter.view(-1)[place] -= 2 * step
                before = model.encode(x_BD).double().sum()
                parameter.view(-1)[place] += step
            expected = float(after - before) / (2 * step)
            assert float(gradient.view(-1)[place]) == pytest.approx(expected, rel=0.02)


@torch.no_grad()
def test_a_skip_needs_the_input() -> None:
    model = sae.SAE(sae.SAEConfig("standard", 12, 48, apply_b_dec_to_input=False, d_out=7, skip=True))
    with pytest.raises(ModelError, match="decode needs the input too"):
        model.decode(torch.zeros(1, 48))
