"""The state-space scan of Mamba-2 in chunks: matrix products within a chunk, one state carried between them.

Source: "Transformers are SSMs" (arXiv:2405.21060), section 6. Time and memory are linear in length.
Legend: B sequences, L length, H heads, P head width, G groups, R heads of a group, N state, C chunks,
Q chunk length.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Fastest on a CPU of 32, 64, 128 and 256 (docs/benchmarks/scan.md): work within a chunk grows with its
# square.
CHUNK = 64


def ssd(
    x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor, chunk: int = CHUNK
) -> Tensor:
    """y_BLHP with S_t = exp(dt_t A) S_(t-1) + dt_t x_t B_t', y_t = S_t C_t, from S = 0.

    Computed in float32, or float64 for float64. dt is the step size after softplus, A is negative. A position
    with dt = 0 leaves the state as it is and adds nothing to it; the last chunk is filled up with such ones.
    """
    with torch.autocast(x_BLHP.device.type, enabled=False):
        x_BLHP, dt_BLH, B_BLGN, C_BLGN = (_exact(part) for part in (x_BLHP, dt_BLH, B_BLGN, C_BLGN))
        length = x_BLHP.shape[1]
        short = -length % chunk
        if short:
            x_BLHP, B_BLGN, C_BLGN = (
                F.pad(part, (0, 0, 0, 0, 0, short)) for part in (x_BLHP, B_BLGN, C_BLGN)
            )
            dt_BLH = F.pad(dt_BLH, (0, 0, 0, short))
        return _scan(x_BLHP, dt_BLH, _exact(A_H), B_BLGN, C_BLGN, chunk)[:, :length]


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _scan(x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor, chunk: int) -> Tensor:
    n, length, heads, width = x_BLHP.shape
    groups, state = B_BLGN.shape[2:]
    per_group, chunks = heads // groups, length // chunk
    # What is added to the state at each position, head by head within its group.
    u_BCGQRP = (x_BLHP * dt_BLH[..., None]).view(n, chunks, chunk, groups, per_group, width).transpose(2, 3)
    B_BCGQN = B_BLGN.view(n, chunks, chunk, groups, state).transpose(2, 3)
    C_BCGQN = C_BLGN.view(n, chunks, chunk, groups, state).transpose(2, 3)
    log_BCGRQ = (dt_BLH * A_H).view(n, chunks, chunk, groups, per_group).permute(0, 1, 3, 4, 2).cumsum(-1)

    y_BCGRQP = _within(u_BCGQRP.transpose(3, 4), log_BCGRQ, C_BCGQN @ B_BCGQN.mT)
    to_end_BCGQR1 = (log_BCGRQ[..., -1:] - log_BCGRQ).exp().mT[..., None]
    added_BCGNX = B_BCGQN.mT @ (u_BCGQRP * to_end_BCGQR1).reshape(n, chunks, groups, chunk, -1)
    before_BCGNX = _carry(added_BCGNX, log_BCGRQ[..., -1].exp(), width)
    from_before = (C_BCGQN @ before_BCGNX).view(n, chunks, groups, chunk, per_group, width)
    y_BCGQRP = torch.addcmul(y_BCGRQP.transpose(3, 4), from_before, log_BCGRQ.exp().mT[..., None])
    return y_BCGQRP.transpose(2, 3).reshape(n, length, heads, width)


def _within(u_BCGRQP: Tensor, log_BCGRQ: Tensor, scores_BCGQQ: Tensor) -> Tensor:
    """What positions of a chunk get from earlier ones of the same chunk."""
    chunk = log_BCGRQ.shape[-1]
    later_QQ = torch.ones(chunk, chunk, dtype=torch.bool, device=log_BCGRQ.device).triu(1)
    # Masked before exp: the differences of later positions are positive and may overflow, and inf * 0 is NaN
    # in the gradient.
    decay_BCGRQQ = (log_BCGRQ[..., :, None] - log_BCGRQ[..., None, :]).masked_fill(later_QQ, -torch.inf).exp()
    return (scores_BCGQQ[:, :, :, None] * decay_BCGRQQ) @ u_BCGRQP


def _carry(added_BCGNX: Tensor, decay_BCGR: Tensor, width: int) -> Tensor:
    """State before each chunk, from what each adds and how far it lets the state decay."""
    decay_BCG1X = decay_BCGR.repeat_interleave(width, -1)[..., None, :]
    states = [torch.zeros_like(added_BCGNX[:, 0])]
    # unbind, not indexing: the gradient of an index is a tensor of zeros as long as the whole.
    for added_BGNX, decay_BG1X in zip(added_BCGNX.unbind(1)[:-1], decay_BCG1X.unbind(1)[:-1], strict=True):
        states.append(torch.addcmul(added_BGNX, states[-1], decay_BG1X))
    return torch.stack(states, 1)
