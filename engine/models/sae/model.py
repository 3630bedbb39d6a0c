"""Sparse autoencoders of the SAELens architectures, for inference, and their folds.

Legend: B tokens of a batch, D input width (d_in), F features (d_sae), K active features.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.errors import ModelError
from engine.models.sae.config import SAEConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Per-feature parameters beside W_enc, W_dec and b_dec.
FEATURE_PARAMETERS = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "r_mag", "b_mag"),
}


class SAE(nn.Module):
    """Encoder and decoder of one sparse autoencoder. Parameter names are SAELens'.

    W_enc [D, F], W_dec [F, D], b_dec [D], and per feature: b_enc; threshold (jumprelu); b_gate, r_mag, b_mag
    (gated).
    """

    W_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    b_enc: nn.Parameter
    threshold: nn.Parameter
    b_gate: nn.Parameter
    r_mag: nn.Parameter
    b_mag: nn.Parameter

    def __init__(self, config: SAEConfig) -> None:
        super().__init__()
        self.config = config
        dtype = DTYPES[config.dtype]
        self.W_enc = nn.Parameter(torch.zeros(config.d_in, config.d_sae, dtype=dtype))
        self.W_dec = nn.Parameter(torch.zeros(config.d_sae, config.d_in, dtype=dtype))
        self.b_dec = nn.Parameter(torch.zeros(config.d_in, dtype=dtype))
        for name in FEATURE_PARAMETERS[config.architecture]:
            self.register_parameter(name, nn.Parameter(torch.zeros(config.d_sae, dtype=dtype)))

    @property
    def d_in(self) -> int:
        return self.config.d_in

    @property
    def d_sae(self) -> int:
        return self.config.d_sae

    def forward(self, x_BD: Tensor) -> Tensor:
        """Reconstruction r_BD, float32."""
        return self.decode(self.encode(x_BD), x_BD)

    def encode(self, x_BD: Tensor) -> Tensor:
        """Feature activations, dense float32 a_BF >= 0, computed in the weights' dtype from any float x."""
        x_BD = self.centred(x_BD)
        if self.config.architecture == "topk":
            index_BK, value_BK = self.top_features(self.pre_activations(x_BD))
            h_BF = x_BD.new_zeros((*x_BD.shape[:-1], self.d_sae))
            return h_BF.scatter(-1, index_BK, value_BK.relu()).float()
        if self.config.architecture == "gated":
            gate_BF = x_BD @ self.W_enc + self.b_gate
            size_BF = x_BD @ (self.W_enc * self.r_mag.exp()) + self.b_mag
            return (size_BF.relu() * (gate_BF > 0)).float()
        h_BF = self.pre_activations(x_BD)
        if self.config.architecture == "jumprelu":
            return (h_BF.relu() * (h_BF > self.threshold)).float()
        return h_BF.relu().float()

    def decode(self, a_BF: Tensor, x_BD: Tensor | None = None) -> Tensor:
        """Reconstruction from activations, float32 r_BD.

        x_BD: the input they came from; only needed when the input was normalised token by token
        (normalize_activations constant_norm_rescale or layer_norm), because that must be undone.
        """
        a_BF = a_BF.to(self.W_dec.dtype)
        if self.config.rescale_acts_by_decoder_norm:
            # Times the reciprocal, as SAELens does: dividing rounds differently.
            a_BF = a_BF * (1 / self.W_dec.norm(dim=-1))
        r_BD = (a_BF @ self.W_dec + self.b_dec).float()
        scale_B1, shift_B1 = self._normaliser(x_BD)
        return r_BD if scale_B1 is None else r_BD * scale_B1.float() + shift_B1.float()

    def centred(self, x_BD: Tensor) -> Tensor:
        """The encoder's input: in the weights' dtype, normalised if configured so, minus b_dec."""
        x_BD = x_BD.to(self.W_enc.dtype)
        scale_B1, shift_B1 = self._normaliser(x_BD)
        if scale_B1 is not None:
            guard = 1e-5 if self.config.normalize_activations == "layer_norm" else 0.0
            x_BD = (x_BD - shift_B1) / (scale_B1 + guard)
        return x_BD - self.b_dec if self.config.apply_b_dec_to_input else x_BD

    def pre_activations(self, x_BD: Tensor) -> Tensor:
        """h_BF of a centred input; topk scales it by the decoder's norms if configured so."""
        h_BF = x_BD @ self.W_enc + self.b_enc
        return h_BF * self.W_dec.norm(dim=-1) if self.config.rescale_acts_by_decoder_norm else h_BF

    def top_features(self, h_BF: Tensor) -> tuple[Tensor, Tensor]:
        """The k largest pre-activations of each token: index_BK, value_BK (not yet rectified)."""
        if self.config.k is None:
            raise ModelError(f"a {self.config.architecture} autoencoder has no k")
        value_BK, index_BK = torch.topk(h_BF, self.config.k, dim=-1, sorted=False)
        return index_BK, value_BK

    def _normaliser(self, x_BD: Tensor | None) -> tuple[Tensor, Tensor] | tuple[None, Tensor]:
        """What a token was divided by and what was subtracted before; (None, _) without normalisation."""
        kind = self.config.normalize_activations
        if kind not in ("constant_norm_rescale", "layer_norm"):
            return None, self.b_dec
        if x_BD is None:
            raise ModelError(
                f"normalize_activations is {kind}: decode needs the input too, decode(a_BF, x_BD)"
            )
        x_BD = x_BD.to(self.W_enc.dtype)
        if kind == "layer_norm":
            # Unbiased standard deviation, as SAELens computes it.
            return x_BD.std(-1, keepdim=True), x_BD.mean(-1, keepdim=True)
        norm_B1 = x_BD.norm(dim=-1, keepdim=True)
        return norm_B1 / math.sqrt(self.d_in), torch.zeros_like(norm_B1)


@torch.no_grad()
def create(d_in: int, d_sae: int, k: int, *, seed: int = 0, metadata: dict[str, object] | None = None) -> SAE:
    """A fresh TopK autoencoder: decoder rows are random unit vectors, the encoder is their transpose.

    It selects by h * ||W_dec|| (rescale_acts_by_decoder_norm), so that drifting decoder norms cannot change
    which features win; fold_decoder_norm removes the norms at export.
    """
    config = SAEConfig(
        "topk", d_in, d_sae, k=k, rescale_acts_by_decoder_norm=True, metadata=dict(metadata or {})
    )
    sae = SAE(config)
    generator = torch.Generator().manual_seed(seed)
    sae.W_dec.copy_(F.normalize(torch.randn(d_sae, d_in, generator=generator), dim=1))
    sae.W_enc.copy_(sae.W_dec.T)
    return sae


@torch.no_grad()
def fold_input_scaling(sae: SAE, mean_D: Tensor, scale: float) -> SAE:
    """A copy that takes raw activations, of an autoencoder trained on x' = (x - mean) * scale.

    Same support on the same tokens, reconstruction in raw units. A TopK autoencoder that rescales by decoder
    norms gives activations divided by `scale` (its decoder rows shrink by it); the others' stay the same. The
    factor is kept in metadata as `input_scale`, the mean's norm as `input_mean_norm`.
    """
    if sae.config.normalize_activations != "none":
        raise ModelError(
            f"normalize_activations is {sae.config.normalize_activations}; it cannot be combined with a mean "
            "and scale"
        )
    folded = _copy(sae)
    mean_D = mean_D.to(folded.b_dec)
    if not sae.config.apply_b_dec_to_input:
        for name in FEATURE_PARAMETERS[sae.config.architecture]:
            bias_F = getattr(folded, name)
            if name in ("b_enc", "b_gate"):
                bias_F.sub_(scale * mean_D @ sae.W_enc)
            elif name == "b_mag":
                bias_F.sub_(scale * mean_D @ (sae.W_enc * sae.r_mag.exp()))
    folded.W_enc.mul_(scale)
    folded.W_dec.div_(scale)
    folded.b_dec.div_(scale).add_(mean_D)
    metadata = sae.config.metadata | {"input_scale": scale, "input_mean_norm": float(mean_D.norm())}
    folded.config = dataclasses.replace(sae.config, metadata=metadata)
    return folded


@torch.no_grad()
def fold_decoder_norm(sae: SAE) -> SAE:
    """A copy with unit decoder rows whose activations carry the norms; same support and reconstruction.

    Refuses a TopK autoencoder that does not select by norm: its support would change.
    """
    if sae.config.architecture == "topk" and not sae.config.rescale_acts_by_decoder_norm:
        raise ModelError(
            "folding the decoder norms of a topk autoencoder that ignores them changes its support"
        )
    folded = _copy(sae)
    norm_F = sae.W_dec.norm(dim=-1)
    folded.W_dec.div_(norm_F[:, None])
    folded.W_enc.mul_(norm_F)
    for name in FEATURE_PARAMETERS[sae.config.architecture]:
        if name != "r_mag":  # multiplies W_enc, which carries the norm already
            getattr(folded, name).mul_(norm_F)
    return folded


def _copy(sae: SAE) -> SAE:
    copy = SAE(sae.config).to(sae.W_enc)
    copy.load_state_dict(sae.state_dict())
    return copy
