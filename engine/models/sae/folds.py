"""Folds: what was outside of the weights while training moves into them, without changing what comes out.

Legend: D input width, O output width, F features.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from engine.models.errors import ModelError
from engine.models.sae.config import TRAINING_FORMS, SAEConfig
from engine.models.sae.model import FEATURE_PARAMETERS, SAE


@torch.no_grad()
def fold_input_scaling(
    sae: SAE,
    mean_D: Tensor,
    scale: float | Tensor,
    target_mean_O: Tensor | None = None,
    target_scale: float | Tensor | None = None,
) -> SAE:
    """A copy that takes raw activations, of an autoencoder trained on x' = (x - mean) * scale.

    Same support on the same tokens, reconstruction in raw units. An autoencoder that rescales by decoder
    norms gives activations divided by `scale` (its decoder rows shrink by it); the others' stay the same. The
    factor is kept in metadata as `input_scale`, the mean's norm as `input_mean_norm`.

    scale may differ by input dimension ([D]) where no decoder norm takes part in the selection; raises
    ModelError where it does. target_mean_O and target_scale are those of a transcoder's target
    y' = (y - target mean) * target scale; they are needed there and refused elsewhere.
    """
    if sae.config.normalize_activations != "none":
        raise ModelError(
            f"normalize_activations is {sae.config.normalize_activations}; it cannot be combined with a mean "
            "and scale"
        )
    if isinstance(scale, Tensor) and scale.numel() > 1 and sae.config.rescale_acts_by_decoder_norm:
        raise ModelError(
            "a scale by dimension would change the decoder norms that choose the features; fold those first "
            "(export_form)"
        )
    if (sae.config.d_out is not None) != (target_mean_O is not None and target_scale is not None):
        raise ModelError("the target's mean and scale belong to transcoders, and every transcoder needs them")
    folded = copy(sae)
    mean_D, scale_D = mean_D.to(sae.b_dec), torch.as_tensor(scale).to(sae.b_dec)
    out_O = scale_D if target_scale is None else torch.as_tensor(target_scale).to(sae.b_dec)
    folded.W_enc.mul_(scale_D[..., None])
    folded.W_dec.div_(out_O)
    folded.b_dec.div_(out_O).add_(mean_D if target_mean_O is None else target_mean_O.to(sae.b_dec))
    if not sae.config.apply_b_dec_to_input:
        _shift_biases(folded, mean_D)
    if sae.config.skip:
        folded.W_skip.mul_(scale_D).div_(out_O[..., None])
        folded.b_dec.sub_(folded.W_skip @ mean_D)
    if sae.config.architecture in TRAINING_FORMS and sae.config.rescale_acts_by_decoder_norm:
        folded.topk_threshold.div_(float(out_O))  # in units of h * ||W_dec||
    metadata = sae.config.metadata | {"input_mean_norm": float(mean_D.norm())}
    if scale_D.numel() == 1:
        metadata["input_scale"] = float(scale)
    folded.config = dataclasses.replace(sae.config, metadata=metadata)
    return folded


@torch.no_grad()
def fold_decoder_norm(sae: SAE) -> SAE:
    """A copy with unit decoder rows whose activations carry the norms; same support and reconstruction.

    Refuses an autoencoder whose k are not chosen by norm: its support would change.
    """
    _require_foldable(sae.config)
    folded = copy(sae)
    fold_norm_into(sae.config, folded.state_dict())
    return folded


def fold_norm_into(config: SAEConfig, weights: dict[str, Tensor]) -> None:
    """`fold_decoder_norm` in place on weights of any range of features, in the module's names and shapes."""
    _require_foldable(config)
    norm_F = weights["W_dec"].norm(dim=-1)
    weights["W_dec"].div_(norm_F[:, None])
    weights["W_enc"].mul_(norm_F)
    for name in FEATURE_PARAMETERS[config.architecture]:
        if name != "r_mag":  # multiplies W_enc, which carries the norm already
            weights[name].mul_(norm_F)


@torch.no_grad()
def export_form(sae: SAE) -> SAE:
    """The autoencoder as it is written to disk: decoder norms folded where they choose the features, and the
    running threshold of BatchTopK and Matryoshka as a constant JumpReLU threshold.

    An autoencoder without either is returned as it is.
    """
    if sae.config.rescale_acts_by_decoder_norm:
        sae = fold_decoder_norm(sae)
    if sae.config.architecture not in TRAINING_FORMS:
        return sae
    exported = SAE(export_config(sae.config)).to(sae.W_enc.device)
    weights = sae.state_dict()
    weights["threshold"] = threshold_vector(weights.pop("topk_threshold"), sae.d_sae)
    exported.load_state_dict(weights)
    return exported


def export_config(config: SAEConfig) -> SAEConfig:
    """Configuration of `export_form`."""
    if config.architecture not in TRAINING_FORMS:
        return config
    metadata = {"training_architecture": config.architecture, "training_k": config.k} | config.metadata
    return dataclasses.replace(
        config, architecture="jumprelu", k=None, rescale_acts_by_decoder_norm=False, metadata=metadata
    )


def threshold_vector(topk_threshold: Tensor, n_features: int) -> Tensor:
    """One threshold for all features -> one per feature, float32."""
    return topk_threshold.float().expand(n_features).clone()


def copy(sae: SAE) -> SAE:
    """The same autoencoder in memory of its own."""
    twin = SAE(sae.config).to(sae.W_enc.device)
    twin.load_state_dict(sae.state_dict())
    return twin


def _shift_biases(folded: SAE, mean_D: Tensor) -> None:
    """Moves the mean of the input into the encoder's biases; W_enc is in raw units already."""
    shift_F = mean_D @ folded.W_enc
    for name in FEATURE_PARAMETERS[folded.config.architecture]:
        if name in ("b_enc", "b_gate"):
            getattr(folded, name).sub_(shift_F)
        elif name == "b_mag":
            folded.b_mag.sub_(shift_F * folded.r_mag.exp())


def _require_foldable(config: SAEConfig) -> None:
    if config.architecture in ("topk", *TRAINING_FORMS) and not config.rescale_acts_by_decoder_norm:
        raise ModelError(
            f"folding the decoder norms of a {config.architecture} autoencoder that ignores them changes its "
            "support"
        )
