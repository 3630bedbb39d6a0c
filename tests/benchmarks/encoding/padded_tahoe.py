"""Tahoe-x1 run the way its own inference script runs it, with the weights of one of our encoders.

Restated from tahoe_x1 1.0.0 (scripts/inference): cells in file order, in batches of a fixed number, padded to
the longest of the batch; every block over every row; padded rows pass all linear layers and norms, and are
left out by attention alone, as the variable-length FlashAttention of the original does.
Legend: C cells, S tokens of the longest cell, D width, N heads, H head width.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models import Tokens
from engine.models.tahoe import TahoeEncoder
from engine.models.tahoe.model import Block

PAD_VALUE = -2.0


class PaddedBatch:
    """ids_CS, values_CS: right-padded. valid_CS: which of them are tokens. lengths: tokens of each cell.

    longest: tokens of the longest cell of the batch, where these are only some of its cells.
    """

    def __init__(
        self, tokens: Tokens, pad_id: int, *, longest: int | None = None, device: str = "cpu"
    ) -> None:
        self.lengths = tokens.lengths.tolist()
        valid_CS = np.arange(longest or max(self.lengths))[None] < tokens.lengths[:, None]
        ids_CS = np.full(valid_CS.shape, pad_id, np.int64)
        values_CS = np.full(valid_CS.shape, PAD_VALUE, np.float32)
        ids_CS[valid_CS], values_CS[valid_CS] = tokens.ids_T, tokens.values_T
        self.valid_CS = torch.from_numpy(valid_CS).to(device)
        self.ids_CS, self.values_CS = (
            torch.from_numpy(ids_CS).to(device),
            torch.from_numpy(values_CS).to(device),
        )


def embed(encoder: TahoeEncoder, batch: PaddedBatch) -> Tensor:
    """x_CSD before the first block."""
    values = encoder.values
    v_CSD = F.linear(batch.values_CS.clamp(max=512)[..., None], values.linear1.weight, values.linear1.bias)
    v_CSD = F.linear(values.activation(v_CSD), values.linear2.weight, values.linear2.bias)
    g_CSD: Tensor = encoder.genes.norm(F.embedding(batch.ids_CS, encoder.genes.table.weight))
    x_CSD: Tensor = g_CSD + values.norm(v_CSD)
    return x_CSD


def block(layer: Block, x_CSD: Tensor, batch: PaddedBatch, *, mask: bool = False) -> Tensor:
    """One pre-norm block. mask: one masked attention call for all cells, where there is no FlashAttention."""
    attention, ffn = layer.attention, layer.ffn
    n_CSD = layer.norm1(x_CSD)
    q, k, v = (
        F.linear(n_CSD, attention.qkv.weight, attention.qkv.bias)
        .unflatten(-1, (3, attention.n_heads, attention.head_width))
        .permute(2, 0, 3, 1, 4)
    )
    if mask:
        o_CNSH = F.scaled_dot_product_attention(q, k, v, attn_mask=batch.valid_CS[:, None, None, :])
    else:
        o_CNSH = torch.zeros_like(q)
        for cell, length in enumerate(batch.lengths):
            o_CNSH[cell, :, :length] = F.scaled_dot_product_attention(
                *(x[cell : cell + 1, :, :length] for x in (q, k, v))
            )[0]
    o_CSD = o_CNSH.transpose(1, 2).flatten(2)
    x_CSD = x_CSD + F.linear(o_CSD, attention.out.weight, attention.out.bias)
    h_CSF = ffn.activation(F.linear(layer.norm2(x_CSD), ffn.up.weight, ffn.up.bias))
    return x_CSD + F.linear(h_CSF, ffn.down.weight, ffn.down.bias)
