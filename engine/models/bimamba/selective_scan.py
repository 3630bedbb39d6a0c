"""The scan of Mamba-1, whose every channel and state decays at its own rate: no matrix product does it.

A sequence is cut into segments, whose states are computed again in the backward pass, and a segment into
blocks, which advance side by side from zero and are then corrected by what came in: few steps in Python, and
what a step touches stays in the cache. Time and memory are linear in length.
Legend: B sequences, L length, E channels, N state, S positions of a segment, K blocks of a segment, T
positions of a block.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# A block's positions and a segment's blocks: fastest on a CPU at 256 channels and 16 states
# (docs/benchmarks/scan.md).
BLOCK, BLOCKS = 16, 16


def selective_scan(u_BLE: Tensor, dt_BLE: Tensor, A_EN: Tensor, B_BLN: Tensor, C_BLN: Tensor) -> Tensor:
    """y_BLE with h_t = exp(dt_t A) h_(t-1) + dt_t B_t u_t, y_t = C_t . h_t, from h = 0; float32 or float64.

    dt is the step size after softplus, A is negative. A position with dt = 0 changes nothing.
    """
    with torch.autocast(u_BLE.device.type, enabled=False):
        u_BLE, dt_BLE, A_EN, B_BLN, C_BLN = (_exact(part) for part in (u_BLE, dt_BLE, A_EN, B_BLN, C_BLN))
        length = u_BLE.shape[1]
        fill = (0, 0, 0, -length % BLOCK)
        u_BLE, dt_BLE, B_BLN, C_BLN = (F.pad(part, fill) for part in (u_BLE, dt_BLE, B_BLN, C_BLN))
        scanned: Any = _SelectiveScan.apply(u_BLE, dt_BLE, A_EN, B_BLN, C_BLN)  # type: ignore[no-untyped-call]
        y_BLE: Tensor = scanned[:, :length]
        return y_BLE


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class _Segment(NamedTuple):
    """Inputs of a segment, position of a block first: [T, B, K, ...]."""

    u_TBKE: Tensor
    dt_TBKE: Tensor
    B_TBKN: Tensor
    C_TBKN: Tensor

    @classmethod
    def cut(cls, at: slice, *parts_BLX: Tensor) -> _Segment:
        return cls(*(_by_block(part[:, at]) for part in parts_BLX))


class _SelectiveScan(torch.autograd.Function):
    """Saves its inputs and the state before each segment; everything else is computed twice."""

    @staticmethod
    def forward(
        ctx: Any, u_BLE: Tensor, dt_BLE: Tensor, A_EN: Tensor, B_BLN: Tensor, C_BLN: Tensor
    ) -> Tensor:
        y_BLE = torch.empty_like(u_BLE)
        state_BEN = u_BLE.new_zeros(len(u_BLE), *A_EN.shape)
        before = []
        for at in _segments(u_BLE.shape[1]):
            before.append(state_BEN)
            segment = _Segment.cut(at, u_BLE, dt_BLE, B_BLN, C_BLN)
            h_TBKEN, state_BEN = _states(segment, A_EN, state_BEN)
            y_BLE[:, at] = _in_order((h_TBKEN @ segment.C_TBKN[..., None])[..., 0])
        ctx.save_for_backward(u_BLE, dt_BLE, A_EN, B_BLN, C_BLN, *before)
        return y_BLE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BLE: Tensor) -> tuple[Tensor, ...]:
        u_BLE, dt_BLE, A_EN, B_BLN, C_BLN, *before = ctx.saved_tensors
        du_BLE, ddt_BLE, dB_BLN, dC_BLN = (torch.empty_like(part) for part in (u_BLE, dt_BLE, B_BLN, C_BLN))
        dA_EN = torch.zeros_like(A_EN)
        after_BEN = torch.zeros_like(before[0])  # gradient of the state behind the segment
        for at, state_BEN in zip(reversed(_segments(u_BLE.shape[1])), reversed(before), strict=True):
            segment = _Segment.cut(at, u_BLE, dt_BLE, B_BLN, C_BLN)
            dy_TBKE = _by_block(dy_BLE[:, at])
            h_TBKEN, _ = _states(segment, A_EN, state_BEN)
            dC_BLN[:, at] = _in_order((dy_TBKE[..., None, :] @ h_TBKEN)[..., 0, :])
            g_TBKEN, after_BEN = _state_gradients(segment, A_EN, dy_TBKE, after_BEN)
            du, ddt, dB = _input_gradients(segment, A_EN, h_TBKEN, g_TBKEN, dA_EN)
            du_BLE[:, at], ddt_BLE[:, at], dB_BLN[:, at] = _in_order(du), _in_order(ddt), _in_order(dB)
        return du_BLE, ddt_BLE, dA_EN, dB_BLN, dC_BLN


def _segments(length: int) -> list[slice]:
    size = BLOCK * BLOCKS
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _by_block(x_BSX: Tensor) -> Tensor:
    n, length, width = x_BSX.shape
    return x_BSX.reshape(n, length // BLOCK, BLOCK, width).permute(2, 0, 1, 3).contiguous()


def _in_order(x_TBKX: Tensor) -> Tensor:
    block, n, blocks, width = x_TBKX.shape
    return x_TBKX.permute(1, 2, 0, 3).reshape(n, blocks * block, width)


def _decay(segment: _Segment, A_EN: Tensor) -> Tensor:
    return (segment.dt_TBKE[..., None] * A_EN).exp_()


def _states(segment: _Segment, A_EN: Tensor, state_BEN: Tensor) -> tuple[Tensor, Tensor]:
    """States at all positions of a segment, and the last of them, from the state before it."""
    a_TBKEN = _decay(segment, A_EN)
    h_TBKEN = (segment.dt_TBKE * segment.u_TBKE)[..., None] * segment.B_TBKN[..., None, :]
    for t in range(1, BLOCK):
        h_TBKEN[t].addcmul_(a_TBKEN[t], h_TBKEN[t - 1])
        a_TBKEN[t].mul_(a_TBKEN[t - 1])  # now the decay since the block began
    incoming = []
    for k in range(h_TBKEN.shape[2]):
        incoming.append(state_BEN)
        state_BEN = torch.addcmul(h_TBKEN[-1, :, k], a_TBKEN[-1, :, k], state_BEN)
    return h_TBKEN.addcmul_(a_TBKEN, torch.stack(incoming, 1)), state_BEN


def _state_gradients(
    segment: _Segment, A_EN: Tensor, dy_TBKE: Tensor, after_BEN: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the states at all positions, and of the state before the segment; the scan backwards."""
    a_TBKEN = _decay(segment, A_EN)
    g_TBKEN = dy_TBKE[..., None] * segment.C_TBKN[..., None, :]
    for t in range(BLOCK - 2, -1, -1):
        g_TBKEN[t].addcmul_(a_TBKEN[t + 1], g_TBKEN[t + 1])
    first_BKEN = a_TBKEN[0].clone()
    # a[t] becomes the decay from t to the block's last position.
    for t in range(BLOCK - 1):
        a_TBKEN[t] = a_TBKEN[t + 1]
    a_TBKEN[-1] = 1
    for t in range(BLOCK - 2, -1, -1):
        a_TBKEN[t].mul_(a_TBKEN[t + 1])
    incoming = []
    for k in range(g_TBKEN.shape[2] - 1, -1, -1):
        incoming.append(after_BEN)
        after_BEN = first_BKEN[:, k] * torch.addcmul(g_TBKEN[0, :, k], a_TBKEN[0, :, k], after_BEN)
    return g_TBKEN.addcmul_(a_TBKEN, torch.stack(incoming[::-1], 1)), after_BEN


def _input_gradients(
    segment: _Segment, A_EN: Tensor, h_TBKEN: Tensor, g_TBKEN: Tensor, dA_EN: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of u, dt and B; that of A is added to `dA_EN`, and `h_TBKEN` is used up."""
    u_TBKE, dt_TBKE, B_TBKN, _ = segment
    moved_TBKE = dt_TBKE * u_TBKE
    dB_TBKN = (moved_TBKE[..., None, :] @ g_TBKEN)[..., 0, :]
    dmoved_TBKE = (g_TBKEN @ B_TBKN[..., None])[..., 0]
    # What of a state is the decayed one before it, times its gradient: the gradient of the decay's logarithm.
    dlog_TBKEN = h_TBKEN.addcmul_(moved_TBKE[..., None], B_TBKN[..., None, :], value=-1).mul_(g_TBKEN)
    ddt_TBKE = dmoved_TBKE * u_TBKE + torch.linalg.vecdot(dlog_TBKEN, A_EN)
    dA_EN += dlog_TBKEN.mul_(dt_TBKE[..., None]).sum((0, 1, 2))
    return dmoved_TBKE * dt_TBKE, ddt_TBKE, dB_TBKN
