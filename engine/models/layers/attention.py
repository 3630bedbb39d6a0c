"""Exact self-attention within each cell of a packed batch; no padded token is ever computed.

Legend: T packed tokens, N heads, H head width, G cells of one group, L their length.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models.tokens import CellLayout, LengthGroup


def attend(
    q_TNH: Tensor,
    k_TNH: Tensor,
    v_TNH: Tensor,
    layout: CellLayout,
    *,
    isolated_T: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention (scale 1/sqrt(H)) of every token over the tokens of its own cell -> o_TNH.

    isolated_T (bool): such a token is seen by itself alone and sees, beside itself, only tokens that are not
    isolated: the mask under which Tahoe-x1 70M and 1.3B were trained, with their generative tokens.
    dropout: probability of dropping an attention weight, for training.
    """
    if not layout.groups:
        return torch.zeros_like(q_TNH)
    if isolated_T is None and dropout == 0.0 and _kernel_takes(q_TNH):
        at, longest = layout.offsets_C1, layout.longest
        # Imported here: it loads torch._dynamo, seconds that every worker on a CPU would pay for nothing.
        from torch.nn.attention.varlen import varlen_attn

        return cast(Tensor, varlen_attn(q_TNH, k_TNH, v_TNH, at, at, longest, longest))
    parts = [
        _attend_group(q_TNH, k_TNH, v_TNH, group, isolated_T=isolated_T, dropout=dropout)
        for group in layout.groups
    ]
    o_TNH = torch.cat(parts) if len(parts) > 1 else parts[0]
    return o_TNH if layout.ungroup_T is None else o_TNH[layout.ungroup_T]


def _kernel_takes(q_TNH: Tensor) -> bool:
    """Whether PyTorch's variable-length kernel (FlashAttention) runs on this device, dtype and head width."""
    if not q_TNH.is_cuda or q_TNH.dtype not in (torch.float16, torch.bfloat16):
        return False
    capable = torch.cuda.get_device_capability(q_TNH.device) >= (8, 0)
    return capable and q_TNH.shape[-1] % 8 == 0 and q_TNH.shape[-1] <= 256


def _attend_group(
    q_TNH: Tensor,
    k_TNH: Tensor,
    v_TNH: Tensor,
    group: LengthGroup,
    *,
    isolated_T: Tensor | None,
    dropout: float,
) -> Tensor:
    shape = (group.n_cells, group.length)
    q, k, v = (x[group.rows].view(*shape, *x.shape[1:]).transpose(1, 2) for x in (q_TNH, k_TNH, v_TNH))
    allowed = None
    if isolated_T is not None:
        isolated_GL = isolated_T[group.rows].view(shape)
        itself_LL = torch.eye(group.length, dtype=torch.bool, device=isolated_T.device)
        allowed = (~isolated_GL[:, None, None, :]) | itself_LL
    o_GNLH = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
    return o_GNLH.transpose(1, 2).flatten(0, 1)
