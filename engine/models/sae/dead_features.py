"""AuxK over few dead features: dense products with their rows only, one chunk of tokens at a time.

With n dead features of which D/2 are active per token, gathering pays only when n is many times D/2; below,
this is faster, and its memory is a chunk's, because the gradients are made chunk by chunk in the forward
pass (the residual is a constant, so nothing later can change them but a factor).
Legend: B tokens, C a chunk of them, D input width, O output width, S dead features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.models.sae.model import SAE
from engine.models.sae.selection import Scratch


def dead_reconstruction_loss(
    sae: SAE, scratch: Scratch, x_BD: Tensor, residual_BO: Tensor, dead_S: Tensor, k: int
) -> Tensor:
    """Mean squared error of the residual's reconstruction by each token's k best dead features.

    Best by h * ||W_dec|| where decoder norms choose; not rectified. Differentiable in the weights.
    """
    before_D = sae.b_dec if sae.config.apply_b_dec_to_input else None
    rescaled = sae.config.rescale_acts_by_decoder_norm
    W_enc_SD, b_enc_S, W_dec_SO = sae.W_enc_FD[dead_S], sae.b_enc[dead_S], sae.W_dec[dead_S]
    found: Tensor = _DeadError.apply(  # type: ignore[no-untyped-call]
        x_BD.detach(), residual_BO, before_D, W_enc_SD, b_enc_S, W_dec_SO, k, rescaled, scratch
    )
    return found


class _DeadError(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BD: Tensor,
        residual_BO: Tensor,
        before_D: Tensor | None,
        W_enc_SD: Tensor,
        b_enc_S: Tensor,
        W_dec_SO: Tensor,
        k: int,
        rescaled: bool,
        scratch: Scratch,
    ) -> Tensor:
        centred_BD = x_BD if before_D is None else x_BD - before_D
        norm_S = W_dec_SO.norm(dim=-1) if rescaled else torch.ones_like(b_enc_S)
        dW_enc_SD, dW_dec_SO = torch.zeros_like(W_enc_SD), torch.zeros_like(W_dec_SO)
        db_enc_S, error = torch.zeros_like(b_enc_S), x_BD.new_zeros(())
        for start, c_CD, h_CS in scratch.chunks(centred_BD, len(W_enc_SD), x_BD.dtype):
            torch.addmm(b_enc_S, c_CD, W_enc_SD.T, out=h_CS)
            if k < len(W_enc_SD):
                least_C1 = (h_CS * norm_S).topk(k, dim=-1).values[:, -1:]
                h_CS.masked_fill_(h_CS * norm_S < least_C1, 0)
            e_CO = torch.addmm(residual_BO[start : start + len(c_CD)], h_CS, W_dec_SO, beta=-1)
            error += e_CO.square().sum()
            dW_dec_SO.addmm_(h_CS.T, e_CO)
            dh_CS = (e_CO @ W_dec_SO.T).masked_fill_(h_CS == 0, 0)
            dW_enc_SD.addmm_(dh_CS.T, c_CD)
            db_enc_S += dh_CS.sum(0)
        ctx.factor = 2 / len(x_BD)
        ctx.subtracts = before_D is not None
        ctx.save_for_backward(W_enc_SD, dW_enc_SD, db_enc_S, dW_dec_SO)
        return error / len(x_BD)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        W_enc_SD, dW_enc_SD, db_enc_S, dW_dec_SO = ctx.saved_tensors
        factor = gradients[0] * ctx.factor
        dbefore_D = -factor * (db_enc_S @ W_enc_SD) if ctx.subtracts else None
        return (
            None,
            None,
            dbefore_D,
            dW_enc_SD * factor,
            db_enc_S * factor,
            dW_dec_SO * factor,
            None,
            None,
            None,
        )
