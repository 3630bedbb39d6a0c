"""Sparse autoencoders and transcoders of the SAELens architectures: encoding and decoding.

Legend: B tokens of a batch, D input width (d_in), F features (d_sae), K active features, O output width
(d_out of a transcoder, else D).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.errors import ModelError
from engine.models.sae.config import TRAINING_FORMS, SAEConfig
from engine.models.sae.selection import Scratch, SparseCodes, exact_top
from engine.models.sae.sparse_ops import bag_sum

ALL = slice(None)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Per-feature parameters beside W_enc, W_dec and b_dec.
FEATURE_PARAMETERS = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "batchtopk": ("b_enc",),
    "matryoshka_batchtopk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "r_mag", "b_mag"),
}


def per_feature_names(architecture: str) -> tuple[str, ...]:
    """Parameters of an SAE whose rows are features."""
    return ("W_enc_FD", "W_dec", *FEATURE_PARAMETERS[architecture])


class SAE(nn.Module):
    """Encoder and decoder of one sparse autoencoder. Parameter names and shapes are SAELens'.

    W_enc [D, F], W_dec [F, O], b_dec [O], and per feature: b_enc; threshold (jumprelu, always float32);
    b_gate, r_mag, b_mag (gated); W_skip [O, D] (skip transcoders). BatchTopK and Matryoshka hold a buffer
    topk_threshold: activations h * ||W_dec|| above it fire outside of training; 0 until the first batch.

    The encoder is the parameter W_enc_FD, feature by feature in memory, because the rows of single features
    are what sparse gradients, shards and rescoring read and write. W_enc is its transpose, and the state dict
    says W_enc [D, F] as SAELens does.
    """

    W_enc_FD: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    b_enc: nn.Parameter
    threshold: nn.Parameter
    b_gate: nn.Parameter
    r_mag: nn.Parameter
    b_mag: nn.Parameter
    W_skip: nn.Parameter
    topk_threshold: Tensor

    def __init__(self, config: SAEConfig) -> None:
        super().__init__()
        self.config = config
        dtype = DTYPES[config.dtype]
        self.W_enc_FD = nn.Parameter(torch.zeros(config.d_sae, config.d_in, dtype=dtype))
        self.W_dec = nn.Parameter(torch.zeros(config.d_sae, config.reconstructs, dtype=dtype))
        self.b_dec = nn.Parameter(torch.zeros(config.reconstructs, dtype=dtype))
        for name in FEATURE_PARAMETERS[config.architecture]:
            kind = torch.float32 if name == "threshold" else dtype
            self.register_parameter(name, nn.Parameter(torch.zeros(config.d_sae, dtype=kind)))
        if config.skip:
            self.W_skip = nn.Parameter(torch.zeros(config.reconstructs, config.d_in, dtype=dtype))
        if config.architecture in TRAINING_FORMS:
            self.register_buffer("topk_threshold", torch.zeros((), dtype=torch.float64))
        self.register_state_dict_post_hook(_name_encoder_as_saelens)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_name_encoder_as_we)  # type: ignore[no-untyped-call]

    @property
    def W_enc(self) -> Tensor:  # noqa: N802 - SAELens' name
        """[D, F] view of the encoder; gradients reach W_enc_FD."""
        return self.W_enc_FD.T

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Thresholds stay float32 (float64) under .to(dtype): steps of the size of lr would round away."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if "threshold" in self._parameters and self.threshold.dtype != torch.float32:
            self.threshold.data = self.threshold.data.float()
        if "topk_threshold" in self._buffers:
            self.topk_threshold = self.topk_threshold.double()
        return self

    @property
    def d_in(self) -> int:
        return self.config.d_in

    @property
    def d_sae(self) -> int:
        return self.config.d_sae

    def forward(self, x_BD: Tensor) -> Tensor:
        """Reconstruction r_BO, float32."""
        return self.decode(self.encode(x_BD), x_BD)

    def encode(self, x_BD: Tensor) -> Tensor:
        """Feature activations, dense float32 a_BF >= 0, computed in the weights' dtype from any float x."""
        h_BF = self.centred(x_BD) @ self.W_enc
        if self.config.architecture != "topk":
            return self._fire_(h_BF).float()
        value_BK, index_BK = self._scores_(h_BF).topk(self._k(), dim=-1, sorted=False)
        return torch.zeros_like(h_BF).scatter(-1, index_BK, value_BK.relu()).float()

    @torch.no_grad()
    def encode_sparse(self, x_BD: Tensor, k: int | None = None) -> SparseCodes:
        """The features `encode` gives, without its zeros: index_BK and value_BK, largest first.

        K is the architecture's k (topk), else the most features any token of x fires; `k` keeps no more than
        that many, the largest. Never holds more than one chunk of tokens densely.
        """
        parts, scratch = [], Scratch()
        for _, x_CD, h_CF in scratch.chunks(self.centred(x_BD), self.d_sae, self.W_enc.dtype):
            torch.mm(x_CD, self.W_enc, out=h_CF)
            if self.config.architecture == "topk":
                score_CK, index_CK = exact_top(self._scores_(h_CF), self._k())
                score_CK = score_CK.relu()
            else:
                fired_CF = self._fire_(h_CF)
                score_CK, index_CK = exact_top(fired_CF, int((fired_CF > 0).sum(-1).max()))
            parts.append((score_CK.float(), index_CK))
        width = max((value_CK.shape[1] for value_CK, _ in parts), default=0)
        padded = [[F.pad(tensor, (0, width - tensor.shape[1])) for tensor in part] for part in parts]
        if not padded:
            empty_BK = torch.zeros(len(x_BD), 0, dtype=torch.int64, device=self.W_enc.device)
            return SparseCodes(empty_BK, empty_BK.float())
        value_BK = torch.cat([value_CK for value_CK, _ in padded])
        index_BK = torch.cat([index_CK for _, index_CK in padded])
        value_BK, place_BK = value_BK.sort(dim=-1, descending=True)
        index_BK = index_BK.gather(-1, place_BK).masked_fill(value_BK == 0, 0)
        return SparseCodes(index_BK[:, :k], value_BK[:, :k])

    @torch.no_grad()
    def encode_features(self, x_BD: Tensor, features_J: Tensor) -> Tensor:
        """Activations of some features (int64 numbers, each once): the columns of `encode`, float32 a_BJ.

        Computes only those, unless the features of a token compete for its k (topk).
        """
        if self.config.architecture == "topk":
            index_BK, value_BK = self.encode_sparse(x_BD)
            place_F = torch.full((self.d_sae,), len(features_J), device=value_BK.device)
            place_F[features_J] = torch.arange(len(features_J), device=value_BK.device)
            a_BJ1 = value_BK.new_zeros(len(value_BK), len(features_J) + 1)
            return a_BJ1.scatter_add_(1, place_F[index_BK], value_BK)[:, :-1]
        h_BJ = self.centred(x_BD) @ self.W_enc_FD[features_J].T
        return self._fire_(h_BJ, features_J).float()

    def directions(self, features_J: Tensor) -> Tensor:
        """What one unit of a feature's activation adds to the reconstruction, float32 w_JO.

        Of an input that was normalised token by token it adds that times what the token was divided by.
        """
        w_JO = self.W_dec[features_J].float()
        return w_JO / w_JO.norm(dim=-1, keepdim=True) if self.config.rescale_acts_by_decoder_norm else w_JO

    def decode_change(self, change_BJ: Tensor, features_J: Tensor, x_BD: Tensor) -> Tensor:
        """What changing the activations of some features changes in the reconstruction of x, float32."""
        r_BO = change_BJ.float() @ self.directions(features_J)
        scale_B1 = self.token_scale(x_BD)
        return r_BO if scale_B1 is None else r_BO * scale_B1

    def token_scale(self, x_BD: Tensor) -> Tensor | None:
        """What each token is divided by before it is encoded, float32 [B, 1]; None where tokens are not."""
        scale_B1, _ = self._normaliser(x_BD)
        return None if scale_B1 is None else scale_B1.float()

    def decode(self, a_BF: Tensor, x_BD: Tensor | None = None) -> Tensor:
        """Reconstruction from activations, float32 r_BO.

        x_BD: the input they came from; only needed when the input was normalised token by token
        (normalize_activations constant_norm_rescale or layer_norm), because that must be undone, and in skip
        transcoders, which add a linear map of it.
        """
        a_BF = a_BF.to(self.W_dec.dtype)
        if self.config.rescale_acts_by_decoder_norm:
            # Times the reciprocal, as SAELens does: dividing rounds differently.
            a_BF = a_BF * (1 / self.W_dec.norm(dim=-1))
        return self._finished(a_BF @ self.W_dec, x_BD)

    def decode_sparse(self, codes: SparseCodes, x_BD: Tensor | None = None) -> Tensor:
        """As `decode`, from the output of `encode_sparse`; reads the active decoder rows only."""
        value_BK = codes.value_BK.to(self.W_dec.dtype)
        if self.config.rescale_acts_by_decoder_norm:
            value_BK = value_BK * (1 / self.W_dec.norm(dim=-1))[codes.index_BK]
        offsets_B1 = torch.arange(len(value_BK) + 1, device=value_BK.device) * value_BK.shape[1]
        r_BO = bag_sum(value_BK.flatten(), codes.index_BK.flatten(), offsets_B1, self.W_dec)
        return self._finished(r_BO, x_BD)

    def centred(self, x_BD: Tensor) -> Tensor:
        """The encoder's input: in the weights' dtype, normalised if configured so, minus b_dec."""
        x_BD = x_BD.to(self.W_enc.dtype)
        scale_B1, shift_B1 = self._normaliser(x_BD)
        if scale_B1 is not None:
            guard = 1e-5 if self.config.normalize_activations == "layer_norm" else 0.0
            x_BD = (x_BD - shift_B1) / (scale_B1 + guard)
        return x_BD - self.b_dec if self.config.apply_b_dec_to_input else x_BD

    def _scores_(self, h_BF: Tensor, at: Tensor | slice = ALL) -> Tensor:
        """What the k are chosen by, in place of the products h_BF. at: the features they are of."""
        h_BF = h_BF.add_(self.b_enc[at])
        return h_BF.mul_(self.W_dec[at].norm(dim=-1)) if self.config.rescale_acts_by_decoder_norm else h_BF

    def _fire_(self, h_BF: Tensor, at: Tensor | slice = ALL) -> Tensor:
        """Activations, in place of the products h_BF = centred(x) @ W_enc; every architecture but topk."""
        if self.config.architecture == "gated":
            shut_BF = h_BF + self.b_gate[at] <= 0
            return h_BF.mul_(self.r_mag[at].exp()).add_(self.b_mag[at]).masked_fill_(shut_BF, 0).relu_()
        h_BF = self._scores_(h_BF, at)
        if self.config.architecture == "standard":
            return h_BF.relu_()
        threshold = self.threshold[at] if self.config.architecture == "jumprelu" else self.topk_threshold
        return h_BF.masked_fill_(h_BF <= threshold, 0).relu_()

    def _k(self) -> int:
        if self.config.k is None:
            raise ModelError(f"a {self.config.architecture} autoencoder has no k")
        return int(self.config.k)

    def _finished(self, r_BO: Tensor, x_BD: Tensor | None) -> Tensor:
        """Bias, skip connection and the input's own normalisation on what the features add up to."""
        r_BO = r_BO + self.b_dec
        if self.config.skip:
            if x_BD is None:
                raise ModelError("a skip transcoder's decode needs the input too, decode(a_BF, x_BD)")
            r_BO = r_BO + x_BD.to(self.W_skip.dtype) @ self.W_skip.T
        scale_B1, shift_B1 = self._normaliser(x_BD)
        return r_BO.float() if scale_B1 is None else r_BO.float() * scale_B1.float() + shift_B1.float()

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


def _name_encoder_as_saelens(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    # Put back in its place: the order of keys is the order of bytes on disk.
    for name in list(state):
        tensor = state.pop(name)
        ours = name == f"{prefix}W_enc_FD"
        state[f"{prefix}W_enc" if ours else name] = tensor.t() if ours else tensor


def _name_encoder_as_we(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    if f"{prefix}W_enc" in state:
        state[f"{prefix}W_enc_FD"] = state.pop(f"{prefix}W_enc").T
