"""The state-space scan of Mamba-2 in chunks: matrix products within one, a state carried between them.

Source: "Transformers are SSMs" (arXiv:2405.21060), section 6. Time and memory are linear in length. Chunks
are computed by segments that fit a cache, and a segment is computed again in the backward pass, so that only
the inputs are kept, and one state a segment.
Legend: B sequences, L length, H heads, P head width, G groups, R heads of a group, N state, X = R * P
channels of a group, C chunks of a segment, Q chunk length.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Fastest on a CPU of 32, 64 and 128: work within a chunk grows with its square.
CHUNK = 64
# Chunks of a segment. On a CPU it should stay in a cache; a GPU needs work for all of its processors.
SEGMENT = {"cpu": 16, "cuda": 128}
LEAST_LOG = -40.0


def ssd(
    x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor, chunk: int = CHUNK
) -> Tensor:
    """y_BLHP with S_t = exp(dt_t A) S_(t-1) + dt_t x_t B_t', y_t = S_t C_t, from S = 0.

    Computed in float32, or float64 for float64. dt is the step size after softplus, A is negative. A position
    with dt = 0 leaves the state as it is and adds nothing to it; the last chunk is filled up with such ones.
    """
    with torch.autocast(x_BLHP.device.type, enabled=False):
        inputs = tuple(_exact(part) for part in (x_BLHP, dt_BLH, B_BLGN, C_BLGN))
        scanned: Any = _Scan.apply(*inputs, _exact(A_H), chunk)  # type: ignore[no-untyped-call]
        y_BLHP: Tensor = scanned
        return y_BLHP


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class _Scan(torch.autograd.Function):
    """Keeps its inputs and the state before each segment."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *inputs, A_H, chunk = arguments
        x_BLHP, _, B_BLGN, _ = inputs
        n, _, heads, width = x_BLHP.shape
        groups, state = B_BLGN.shape[2:]
        state_BGNX = x_BLHP.new_zeros(n, groups, state, heads // groups * width)
        y_BLHP, before = torch.empty_like(x_BLHP), []
        for at in _segments(x_BLHP, chunk):
            before.append(state_BGNX)
            parts = [*(part[:, at] for part in inputs), A_H, state_BGNX]
            y_BLHP[:, at], state_BGNX = _segment(chunk, *parts)
        ctx.save_for_backward(*inputs, A_H, *before)
        ctx.chunk = chunk
        return y_BLHP

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BLHP: Tensor) -> tuple[Tensor | None, ...]:
        x_BLHP, dt_BLH, B_BLGN, C_BLGN, A_H, *before = ctx.saved_tensors
        inputs = (x_BLHP, dt_BLH, B_BLGN, C_BLGN)
        gradients = [torch.empty_like(part) for part in inputs]
        dA_H, after_BGNX = torch.zeros_like(A_H), torch.zeros_like(before[0])
        segments = _segments(inputs[0], ctx.chunk)
        for at, state_BGNX in zip(reversed(segments), reversed(before), strict=True):
            parts = [*(part[:, at] for part in inputs), A_H, state_BGNX]
            parts = [part.detach().requires_grad_() for part in parts]
            with torch.enable_grad():
                outputs = _segment(ctx.chunk, *parts)
            *found, of_A_H, after_BGNX = torch.autograd.grad(outputs, parts, (dy_BLHP[:, at], after_BGNX))
            for gradient, part in zip(gradients, found, strict=True):
                gradient[:, at] = part
            dA_H += of_A_H
        return *gradients, dA_H, None


def _segments(x_BLHP: Tensor, chunk: int) -> list[slice]:
    length, size = x_BLHP.shape[1], chunk * SEGMENT.get(x_BLHP.device.type, SEGMENT["cuda"])
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _segment(
    chunk: int,
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    A_H: Tensor,
    state_BGNX: Tensor,
) -> tuple[Tensor, Tensor]:
    """y_BLHP of one segment and the state behind it, from the state before it."""
    n, length, heads, width = x_BLHP.shape
    groups, state = B_BLGN.shape[2:]
    per_group, short = heads // groups, -length % chunk
    if short:
        x_BLHP, B_BLGN, C_BLGN = (F.pad(part, (0, 0, 0, 0, 0, short)) for part in (x_BLHP, B_BLGN, C_BLGN))
        dt_BLH = F.pad(dt_BLH, (0, 0, 0, short))
    chunks = (length + short) // chunk
    # What is added to the state at each position, head by head within its group.
    u_BCGQRP = (x_BLHP * dt_BLH[..., None]).view(n, chunks, chunk, groups, per_group, width).transpose(2, 3)
    B_BCGQN = B_BLGN.reshape(n, chunks, chunk, groups, state).transpose(2, 3)
    C_BCGQN = C_BLGN.reshape(n, chunks, chunk, groups, state).transpose(2, 3)
    log_BCGRQ = (dt_BLH * A_H).view(n, chunks, chunk, groups, per_group).permute(0, 1, 3, 4, 2).cumsum(-1)

    y_BCGRQP = _within(u_BCGQRP.transpose(3, 4), log_BCGRQ, C_BCGQN @ B_BCGQN.mT)
    to_end_BCGQR1 = _faded(log_BCGRQ[..., -1:] - log_BCGRQ).mT[..., None]
    added_BCGNX = B_BCGQN.mT @ (u_BCGQRP * to_end_BCGQR1).reshape(n, chunks, groups, chunk, -1)
    before_BCGNX, state_BGNX = _carry(added_BCGNX, _faded(log_BCGRQ[..., -1]), state_BGNX, width)
    from_before = (C_BCGQN @ before_BCGNX).view(n, chunks, groups, chunk, per_group, width)
    y_BCGQRP = torch.addcmul(y_BCGRQP.transpose(3, 4), from_before, _faded(log_BCGRQ).mT[..., None])
    return y_BCGQRP.transpose(2, 3).reshape(n, -1, heads, width)[:, :length], state_BGNX


def _within(u_BCGRQP: Tensor, log_BCGRQ: Tensor, scores_BCGQQ: Tensor) -> Tensor:
    """What positions of a chunk get from earlier ones of the same chunk."""
    chunk = log_BCGRQ.shape[-1]
    later_QQ = torch.ones(chunk, chunk, dtype=torch.bool, device=log_BCGRQ.device).triu(1)
    # Masked before exp: the differences of later positions are positive and may overflow, and inf * 0 is NaN
    # in the gradient.
    log_BCGRQQ = (log_BCGRQ[..., :, None] - log_BCGRQ[..., None, :]).masked_fill_(later_QQ, -torch.inf)
    decay_BCGRQQ = _faded(log_BCGRQQ)
    return (scores_BCGQQ[:, :, :, None] * decay_BCGRQQ) @ u_BCGRQP


def _faded(log_decay: Tensor) -> Tensor:
    """exp, and 0 below e^-40, which is nothing beside 1 even in float64.

    Smaller factors make denormal numbers, with which a CPU multiplies fifty times as slowly.
    """
    return F.threshold(log_decay, LEAST_LOG, -torch.inf).exp()


def _carry(added_BCGNX: Tensor, decay_BCGR: Tensor, state_BGNX: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """State before each chunk and behind the last, from what each adds and how far it lets the state fade."""
    decay_BCG1X = decay_BCGR.repeat_interleave(width, -1)[..., None, :]
    states = [state_BGNX]
    # unbind, not indexing: the gradient of an index is a tensor of zeros as long as the whole.
    for added_BGNX, decay_BG1X in zip(added_BCGNX.unbind(1), decay_BCG1X.unbind(1), strict=True):
        states.append(torch.addcmul(added_BGNX, states[-1], decay_BG1X))
    return torch.stack(states[:-1], 1), states[-1]
