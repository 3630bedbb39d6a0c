"""The scans against the recurrences they stand for, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from engine.models.bimamba.scan import ssd
from engine.models.bimamba.selective_scan import selective_scan

Inputs = tuple[Tensor, ...]


def ssd_loop(x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor) -> Tensor:
    n, length, heads, width = x_BLHP.shape
    B_BLHN, C_BLHN = (part.repeat_interleave(heads // part.shape[2], 2) for part in (B_BLGN, C_BLGN))
    state, outputs = x_BLHP.new_zeros(n, heads, width, B_BLGN.shape[-1]), []
    for t in range(length):
        added = (x_BLHP[:, t] * dt_BLH[:, t, :, None])[..., None] * B_BLHN[:, t, :, None]
        state = (dt_BLH[:, t] * A_H).exp()[..., None, None] * state + added
        outputs.append((state * C_BLHN[:, t, :, None]).sum(-1))
    return torch.stack(outputs, 1)


def selective_loop(u_BLE: Tensor, dt_BLE: Tensor, A_EN: Tensor, B_BLN: Tensor, C_BLN: Tensor) -> Tensor:
    state, outputs = u_BLE.new_zeros(len(u_BLE), *A_EN.shape), []
    for t in range(u_BLE.shape[1]):
        added = (dt_BLE[:, t] * u_BLE[:, t])[..., None] * B_BLN[:, t, None]
        state = (dt_BLE[:, t, :, None] * A_EN).exp() * state + added
        outputs.append((state * C_BLN[:, t, None]).sum(-1))
    return torch.stack(outputs, 1)


def ssd_inputs(length: int, groups: int = 2) -> Inputs:
    shapes = [(2, length, 4, 3), (2, length, 4), (4,), (2, length, groups, 5), (2, length, groups, 5)]
    return signed(shapes)


def selective_inputs(length: int) -> Inputs:
    return signed([(2, length, 6), (2, length, 6), (6, 5), (2, length, 5), (2, length, 5)])


def signed(shapes: list[tuple[int, ...]]) -> Inputs:
    """Random inputs with steps above 0 and decay rates below."""
    generator = torch.Generator().manual_seed(0)
    x, dt, A, B, C = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return x, dt.abs(), -A.abs() - 0.1, B, C


def value_and_gradients(scan: Callable[..., Tensor], inputs: Inputs) -> list[Tensor]:
    inputs = tuple(part.clone().requires_grad_() for part in inputs)
    y = scan(*inputs)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    return [y, *torch.autograd.grad((y * weight).sum(), inputs)]


CASES = [
    pytest.param(ssd, ssd_loop, ssd_inputs, 1, id="ssd-1"),
    pytest.param(ssd, ssd_loop, ssd_inputs, 130, id="ssd-130"),
    # more than one segment of 16 chunks of 4
    pytest.param(lambda *parts: ssd(*parts, chunk=4), ssd_loop, ssd_inputs, 150, id="ssd-segments"),
    pytest.param(selective_scan, selective_loop, selective_inputs, 1, id="selective-1"),
    pytest.param(selective_scan, selective_loop, selective_inputs, 300, id="selective-300"),
]


@pytest.mark.parametrize(("scan", "loop", "make", "length"), CASES)
def test_value_and_all_gradients_are_the_loop_s(
    scan: Callable[..., Tensor], loop: Callable[..., Tensor], make: Callable[[int], Inputs], length: int
) -> None:
    inputs = make(length)
    for found, expected in zip(
        value_and_gradients(scan, inputs), value_and_gradients(loop, inputs), strict=True
    ):
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("scan", "make"), [(ssd, ssd_inputs), (selective_scan, selective_inputs)])
def test_strong_decay_gives_finite_gradients(
    scan: Callable[..., Tensor], make: Callable[[int], Inputs]
) -> None:
    """e^(+1000) of positions that are masked, and e^(-1000) of those that are not."""
    x, dt, A, B, C = make(200)
    for found in value_and_gradients(scan, (x.float(), 1000 * dt.float(), A.float(), B.float(), C.float())):
        assert torch.isfinite(found).all()


@pytest.mark.parametrize(("scan", "make"), [(ssd, ssd_inputs), (selective_scan, selective_inputs)])
def test_a_step_of_zero_changes_nothing(scan: Callable[..., Tensor], make: Callable[[int], Inputs]) -> None:
    x, dt, A, B, C = make(90)
    whole = scan(x, dt, A, B, C)
    gap = torch.zeros(90, dtype=torch.bool)
    gap[[3, 4, 40, 89]] = True
    paused = scan(x, dt.masked_fill(gap.view(-1, *[1] * (dt.ndim - 2)), 0), A, B, C)
    without = scan(x[:, ~gap], dt[:, ~gap], A, B[:, ~gap], C[:, ~gap])
    torch.testing.assert_close(paused[:, ~gap], without, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(paused[:, ~gap], whole[:, ~gap])


def test_half_precision_is_scanned_in_float32() -> None:
    x, dt, A, B, C = (part.float() for part in ssd_inputs(70))
    halves = [part.bfloat16() for part in (x, dt, A, B, C)]
    with torch.autocast("cpu", torch.bfloat16):
        found = ssd(*halves)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, ssd(*(part.float() for part in halves)), rtol=0, atol=0)
