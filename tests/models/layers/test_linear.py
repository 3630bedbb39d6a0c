"""The kernel of inference on CPUs against PyTorch's own."""

import pytest
import torch
from torch.nn import functional as F

from engine.models.layers.activation import activation
from engine.models.layers.linear import linear

DTYPES = [torch.float32, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_rows", [0, 1, 33])
@pytest.mark.parametrize("has_bias", [True, False])
def test_equals_torch(dtype: torch.dtype, n_rows: int, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((n_rows, 48), (64, 48), (64,))
    )
    given = bias if has_bias else None
    with torch.inference_mode():
        found = linear(x, weight, given)
    close = {torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(found, F.linear(x, weight, given), rtol=0, atol=close)


def test_a_part_of_the_outputs() -> None:
    x, weight, bias = torch.randn(5, 8), torch.randn(12, 8), torch.randn(12)
    with torch.inference_mode():
        found = linear(x, weight[4:], bias[4:])
        torch.testing.assert_close(found, linear(x, weight, bias)[:, 4:], rtol=1e-6, atol=1e-6)


def test_gradients_flow() -> None:
    weight = torch.randn(3, 4, requires_grad=True)
    linear(torch.randn(2, 4), weight, None).sum().backward()
    assert weight.grad is not None


def test_relu_overwrites_without_gradients_alone() -> None:
    x = torch.tensor([-1.0, 2.0])
    assert activation("relu")(x).tolist() == [0, 2]
    assert x.tolist() == [-1, 2]
    with torch.inference_mode():
        y = torch.tensor([-1.0, 2.0])
        assert activation("relu")(y) is y
        assert y.tolist() == [0, 2]
