"""Exact self-attention within each cell of a packed batch; no padded token is ever computed.

Legend: T packed tokens, R rows that ask (all tokens unless only some are kept), N heads, H head width,
G cells of one run, Q their rows, L their length.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models.layout import CellLayout, KeptRows, Run


def attend(
    q_RNH: Tensor,
    k_TNH: Tensor,
    v_TNH: Tensor,
    layout: CellLayout,
    *,
    kept: KeptRows | None = None,
    isolated_T: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention (scale 1/sqrt(H)) of every row over all tokens of its own cell -> o_RNH.

    kept: the rows that q_RNH holds, of all tokens; None for all of them.
    isolated_T (bool): such a token is seen by itself alone and sees, beside itself, only tokens that are not
    isolated: the mask under which Tahoe-x1 70M and 1.3B were trained, with their generative tokens.
    dropout: probability of dropping an attention weight, for training.
    """
    runs = layout.runs if kept is None else kept.runs
    if not runs:
        return torch.zeros_like(q_RNH)
    if isolated_T is None and dropout == 0.0 and _kernel_takes(q_RNH):
        asking = layout if kept is None else kept.layout
        # Imported here: it loads torch._dynamo, seconds that every worker on a CPU would pay for nothing.
        from torch.nn.attention.varlen import varlen_attn

        o_RNH = varlen_attn(
            q_RNH, k_TNH, v_TNH, asking.offsets_C1, layout.offsets_C1, asking.longest, layout.longest
        )
        return cast(Tensor, o_RNH)
    rows_T = None if kept is None else kept.rows_T
    # In float32 on a CPU: its kernel is slightly faster so than in bfloat16, which rounds what is summed.
    q, k, v = (x.float() if x.dtype == torch.bfloat16 and not x.is_cuda else x for x in (q_RNH, k_TNH, v_TNH))
    parts = [_attend_run(q, k, v, run, _allowed(isolated_T, rows_T, run), dropout) for run in runs]
    return (torch.cat(parts) if len(parts) > 1 else parts[0]).to(q_RNH.dtype)


def _kernel_takes(q_RNH: Tensor) -> bool:
    """Whether PyTorch's variable-length kernel (FlashAttention) runs on this device, dtype and head width."""
    if not q_RNH.is_cuda or q_RNH.dtype not in (torch.float16, torch.bfloat16):
        return False
    capable = torch.cuda.get_device_capability(q_RNH.device) >= (8, 0)
    return capable and q_RNH.shape[-1] % 8 == 0 and q_RNH.shape[-1] <= 256


def _attend_run(
    q_RNH: Tensor, k_TNH: Tensor, v_TNH: Tensor, run: Run, allowed_G1QL: Tensor | None, dropout: float
) -> Tensor:
    # Views: the fused CPU kernel reads strided heads as fast as copied ones.
    q_GNQH, k_GNLH, v_GNLH = (
        x[rows].view(run.n_cells, -1, *x.shape[1:]).transpose(1, 2)
        for x, rows in ((q_RNH, run.queries), (k_TNH, run.tokens), (v_TNH, run.tokens))
    )
    o_GNQH = F.scaled_dot_product_attention(q_GNQH, k_GNLH, v_GNLH, attn_mask=allowed_G1QL, dropout_p=dropout)
    return o_GNQH.transpose(1, 2).flatten(0, 1)


def _allowed(isolated_T: Tensor | None, rows_T: Tensor | None, run: Run) -> Tensor | None:
    """Which tokens (L) each row (Q) of a run's cells may see; None for all."""
    if isolated_T is None:
        return None
    tokens_T = torch.arange(len(isolated_T), device=isolated_T.device)
    asking_GQ = (tokens_T if rows_T is None else rows_T)[run.queries].view(run.n_cells, -1, 1)
    seen_GL = tokens_T[run.tokens].view(run.n_cells, 1, -1)
    open_GL = ~isolated_T[run.tokens].view(run.n_cells, 1, -1)
    return (open_GL | (asking_GQ == seen_GL))[:, None]
