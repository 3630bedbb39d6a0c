"""AuxK over few dead features: dense products with their rows only, one chunk of tokens at a time.

With n dead features of which D/2 are active per token, gathering pays only when n is many times D/2; below,
this is faster, and its memory is a chunk's, because the gradients are made chunk by chunk in the forward
pass (the residual is a constant, so nothing later can change them but a factor).
Legend: B tokens, C a chunk of them, D input width, O output width, S dead features of this process.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from engine.models.sae.model import SAE
from engine.models.sae.parallelise import FeatureShard, kth_of_group
from engine.models.sae.selection import Scratch


class Dead(NamedTuple):
    """Features that AuxK may use: at most k per token, by products with all of them if dense.

    columns_S: those of this process; number, widest: how many there are in the group, and at most in one
    process of it.
    """

    columns_S: Tensor
    number: int
    widest: int
    k: int
    dense: bool


def dead_reconstruction_loss(
    sae: SAE,
    shard: FeatureShard,
    scratch: Scratch,
    x_BD: Tensor,
    before_D: Tensor | None,
    residual_BO: Tensor,
    dead: Dead,
) -> Tensor:
    """Mean squared error of the residual's reconstruction by each token's k best dead features.

    Best by h * ||W_dec|| where decoder norms choose; not rectified. before_D: what is subtracted from the
    input. Differentiable in the weights.
    """
    rescaled, dead_S = sae.config.rescale_acts_by_decoder_norm, dead.columns_S
    W_enc_SD, b_enc_S, W_dec_SO = sae.W_enc_FD[dead_S], sae.b_enc[dead_S], sae.W_dec[dead_S]
    found: Tensor = _DeadError.apply(  # type: ignore[no-untyped-call]
        x_BD.detach(), residual_BO, before_D, W_enc_SD, b_enc_S, W_dec_SO, dead, rescaled, shard, scratch
    )
    return found


def _keep_best_(h_CS: Tensor, norm_S: Tensor, dead: Dead, shard: FeatureShard) -> None:
    """Zeroes all but each token's k best of the group."""
    score_CS = h_CS * norm_S
    best_CK = score_CS.topk(min(dead.k, h_CS.shape[1]), dim=-1).values
    if shard.world > 1:
        padded_CK = F.pad(best_CK, (0, dead.k - best_CK.shape[1]), value=-torch.inf)
        least_C1 = kth_of_group(padded_CK, dead.k, shard)
    else:
        least_C1 = best_CK[:, -1:]
    h_CS.masked_fill_(score_CS < least_C1, 0)


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
        dead: Dead,
        rescaled: bool,
        shard: FeatureShard,
        scratch: Scratch,
    ) -> Tensor:
        centred_BD = x_BD if before_D is None else x_BD - before_D
        norm_S = W_dec_SO.norm(dim=-1) if rescaled else torch.ones_like(b_enc_S)
        dW_enc_SD, dW_dec_SO = torch.zeros_like(W_enc_SD), torch.zeros_like(W_dec_SO)
        db_enc_S, error = torch.zeros_like(b_enc_S), x_BD.new_zeros(())
        for start, c_CD, h_CS in scratch.chunks(centred_BD, len(W_enc_SD), x_BD.dtype, dead.widest):
            torch.addmm(b_enc_S, c_CD, W_enc_SD.T, out=h_CS)
            if dead.k < dead.number:
                _keep_best_(h_CS, norm_S, dead, shard)
            e_CO = h_CS @ W_dec_SO
            if shard.world > 1:
                dist.all_reduce(e_CO, group=shard.group)
            e_CO -= residual_BO[start : start + len(c_CD)]
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
            None,
        )
