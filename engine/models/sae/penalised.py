"""Standard, Gated and JumpReLU: sparsity by a penalty instead of a count.

Sources: Rajamanoharan et al. 2024 (Gated, arXiv 2404.16014; JumpReLU, arXiv 2407.14435), the tanh penalty and
pre-activation loss of Anthropic's January 2025 update, the quadratic penalty of Gemma Scope 2; scaled as in
SAELens 6.54. These hold the activations of all features of a batch: their sparsity is only known afterwards.
Legend: B tokens of a batch, D input width, O output width, F features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.models.sae.model import SAE
from engine.models.sae.options import Knobs, ObjectiveOptions, Terms
from engine.models.sae.parallelise import FeatureShard, shared, summed


def standard_terms(
    sae: SAE, options: ObjectiveOptions, knobs: Knobs, x_BD: Tensor, dead_F: Tensor | None
) -> Terms:
    """Rectified features under an lp penalty of their activations times decoder norms."""
    a_BF = _products(sae, x_BD, knobs.shard).add_(sae.b_enc).relu_()
    norm_B = (a_BF * sae.W_dec.norm(dim=1)).norm(p=options.lp_norm, dim=-1)
    sparsity = summed(norm_B, knobs.shard).mean()
    return _terms(sae, x_BD, a_BF, {"sparsity": knobs.sparsity_coefficient * sparsity}, knobs.shard)


def gated_terms(
    sae: SAE, options: ObjectiveOptions, knobs: Knobs, x_BD: Tensor, y_BO: Tensor, dead_F: Tensor | None
) -> Terms:
    """Gates that learn from a penalty and from reconstructing alone ("aux"), magnitudes from the error."""
    u_BF = _products(sae, x_BD, knobs.shard)
    gate_BF = u_BF + sae.b_gate
    a_BF = (u_BF * sae.r_mag.exp() + sae.b_mag).relu() * (gate_BF > 0)
    open_BF = gate_BF.relu()
    sparsity = summed((open_BF * sae.W_dec.norm(dim=1)).sum(-1), knobs.shard).mean()
    via_gate = (summed(open_BF @ sae.W_dec, knobs.shard) + sae.b_dec - y_BO).pow(2).sum(-1).mean()
    penalties = {"sparsity": knobs.sparsity_coefficient * sparsity, "aux": via_gate}
    return _terms(sae, x_BD, a_BF, penalties, knobs.shard)


def jumprelu_terms(
    sae: SAE, options: ObjectiveOptions, knobs: Knobs, x_BD: Tensor, dead_F: Tensor | None
) -> Terms:
    """Features above learnt thresholds under a penalty of their number; dead ones are lifted ("aux")."""
    with torch.no_grad():
        # Below zero a threshold would pass negative activations. Not clamped in the graph: the gradient of a
        # threshold at zero would vanish and keep it there.
        sae.threshold.clamp_(min=0)
    h_BF = _products(sae, x_BD, knobs.shard).add_(sae.b_enc)
    threshold_F = sae.threshold.to(h_BF.dtype)
    a_BF, gate_BF = _JumpReLU.apply(  # type: ignore[no-untyped-call]
        h_BF, threshold_F, options.bandwidth, options.ste_to_input
    )
    norm_F = sae.W_dec.norm(dim=1)
    if options.sparsity_mode == "tanh":
        sparsity_B = torch.tanh(options.tanh_scale * a_BF * norm_F).sum(-1)
    else:
        sparsity_B = gate_BF.sum(-1)
    sparsity_B = summed(sparsity_B, knobs.shard)
    if options.sparsity_mode == "quadratic":
        target = knobs.target_l0 or 0.0  # checked by the module to be set
        sparsity_B = 2 / target * (sparsity_B - target).square()
    penalties = {"sparsity": knobs.sparsity_coefficient * sparsity_B.mean()}
    if options.pre_act_coefficient is not None and dead_F is not None:
        below_BF = (threshold_F - h_BF).relu() * dead_F * norm_F
        penalties["aux"] = options.pre_act_coefficient * summed(below_BF.sum(-1), knobs.shard).mean()
    return _terms(sae, x_BD, a_BF, penalties, knobs.shard)


class _JumpReLU(torch.autograd.Function):
    """(h where h > threshold, that mask); straight-through estimates for the threshold in both.

    The gradient of a step is taken as 1/bandwidth within half a bandwidth of the threshold.
    """

    @staticmethod
    def forward(
        ctx: Any, h_BF: Tensor, threshold_F: Tensor, bandwidth: float, to_input: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(h_BF, threshold_F)
        ctx.bandwidth, ctx.to_input = bandwidth, to_input
        gate_BF = (h_BF > threshold_F).to(h_BF.dtype)
        return h_BF * gate_BF, gate_BF

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        da_BF, dgate_BF = gradients
        h_BF, threshold_F = ctx.saved_tensors
        near_BF = (h_BF - threshold_F).abs() < ctx.bandwidth / 2
        estimate_BF = (threshold_F * da_BF + dgate_BF) * near_BF / ctx.bandwidth
        dh_BF = da_BF * (h_BF > threshold_F)
        return dh_BF + estimate_BF if ctx.to_input else dh_BF, -estimate_BF.sum(0), None, None


def _products(sae: SAE, x_BD: Tensor, shard: FeatureShard) -> Tensor:
    centred_BD = x_BD - shared(sae.b_dec, shard) if sae.config.apply_b_dec_to_input else x_BD
    return centred_BD @ sae.W_enc


def _terms(sae: SAE, x_BD: Tensor, a_BF: Tensor, penalties: dict[str, Tensor], shard: FeatureShard) -> Terms:
    r_BO = summed(a_BF @ sae.W_dec, shard) + sae.b_dec
    if sae.config.skip:
        r_BO = r_BO + x_BD @ sae.W_skip.T
    with torch.no_grad():
        fired_BF = a_BF > 0
        l0 = summed(fired_BF.sum(), shard) / len(a_BF)
        return Terms(r_BO, penalties, fired_BF.any(0), l0)
