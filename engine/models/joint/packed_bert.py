"""A BERT that only answers: the same numbers as transformers' within rounding, in half the time a short text.

Texts are laid end to end, so no padding is computed; queries, keys and values come from one product; and
weights are laid out once as oneDNN wants them, not at every call: that is what one short text waits for.

Legend: T tokens of all texts, D width, N heads, H head width, B texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.joint.text_tower import TextTokens, TextTower

# Rows that the layout of a weight is chosen for; it takes any number.
_ROWS = 32


class _Linear:
    """x W^T + b, then GELU if told so, with W as oneDNN reads it; plain PyTorch where there is no oneDNN.
    dtype: what x, W and the result are rounded to; products are summed in float32.
    """

    def __init__(self, parts: Sequence[Any], dtype: torch.dtype, gelu: bool = False) -> None:
        weight = torch.cat([part.weight.detach() for part in parts]).to(dtype)
        self.bias, self.dtype = torch.cat([part.bias.detach() for part in parts]).to(dtype), dtype
        self.activation = "gelu" if gelu else "none"
        self.is_packed: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        # Private names; they are what torch.compile calls for a linear layer on a CPU, and tested against it.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if self.is_packed else weight

    def __call__(self, x_TD: Tensor) -> Tensor:
        x_TD = x_TD.to(self.dtype)
        if self.is_packed:
            y_TD: Tensor = torch.ops.mkldnn._linear_pointwise(
                x_TD, self.weight, self.bias, self.activation, [], "none" if self.activation == "gelu" else ""
            )
            return y_TD
        y_TD = F.linear(x_TD, self.weight, self.bias)
        return F.gelu(y_TD) if self.activation == "gelu" else y_TD


class _Layer(NamedTuple):
    """qkv: D -> 3 D; out: D -> D; wide, narrow: the feed-forward network; norms: after each half."""

    qkv: _Linear
    out: _Linear
    wide: _Linear
    narrow: _Linear
    norms: tuple[nn.LayerNorm, nn.LayerNorm]


class PackedBert:
    """Features of texts by the weights of a tower, which must not change afterwards; they are held twice."""

    def __init__(self, tower: TextTower, products: torch.dtype = torch.float32) -> None:
        """products: in float32, or in bfloat16 for half the weights' bytes to read at each text. Raises
        ValueError for a tower that `takes` refuses.
        """
        if not self.takes(tower):
            raise ValueError("a packed tower answers for BERT on a CPU in float32")
        language_model: Any = tower.language_model
        self._pool = tower.pool
        self._pooler: Any = language_model.pooler if tower.pool == "pooler" else None
        embeddings, self._heads = language_model.embeddings, language_model.config.num_attention_heads
        self._words_VD = embeddings.word_embeddings.weight.detach()
        # Every text is one sentence, so what says which sentence a token is of is the same at each.
        types_D = embeddings.token_type_embeddings.weight.detach()[0]
        self._places_SD = embeddings.position_embeddings.weight.detach() + types_D
        self._norm = embeddings.LayerNorm
        self._layers = [_layer(layer, products) for layer in language_model.encoder.layer]

    @staticmethod
    def takes(tower: TextTower) -> bool:
        """Whether the tower is what this computes: BERT itself, with GELU, in float32 on a CPU."""
        config: Any = tower.language_model.config
        parameter = next(tower.parameters())
        return (
            config.model_type == "bert"
            and config.hidden_act == "gelu"
            and getattr(config, "position_embedding_type", "absolute") in ("absolute", None)
            and not config.is_decoder
            and parameter.dtype == torch.float32
            and parameter.device.type == "cpu"
            # Adapters are layers of another kind in the places of linear ones.
            and all(type(part) is nn.Linear for part in _linears(tower.language_model))
        )

    @torch.inference_mode()
    def __call__(self, tokens: TextTokens) -> Tensor:
        """Features f_BD of at least one text, float32, as `TextTower.forward` makes them."""
        lengths = tokens.mask_BS.sum(1).tolist()
        ids_T = torch.cat([row[:length] for row, length in zip(tokens.ids_BS, lengths, strict=True)])
        places_T = torch.cat([torch.arange(length) for length in lengths])
        x_TD = _normed(self._norm, self._words_VD[ids_T] + self._places_SD[places_T])
        for layer in self._layers:
            a_TD = self._attended(layer.qkv(x_TD).float(), lengths)
            x_TD = _normed(layer.norms[0], x_TD + layer.out(a_TD))
            x_TD = _normed(layer.norms[1], x_TD + layer.narrow(layer.wide(x_TD)))
        return self._pooled(x_TD, lengths)

    def _attended(self, qkv_TE: Tensor, lengths: list[int]) -> Tensor:
        """Softmax attention within each text; E is three times D."""
        parts = []
        for qkv_SE in torch.split(qkv_TE, lengths):
            q, k, v = qkv_SE.view(len(qkv_SE), 3, self._heads, -1).permute(1, 2, 0, 3).unsqueeze(1).unbind()
            parts.append(F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _pooled(self, x_TD: Tensor, lengths: list[int]) -> Tensor:
        texts = torch.split(x_TD, lengths)
        if self._pool == "mean":
            return torch.stack([x_SD.mean(0) for x_SD in texts])
        first_BD = torch.stack([x_SD[0] for x_SD in texts])
        if self._pooler is None:
            return first_BD
        pooled_BD: Tensor = torch.tanh(self._pooler.dense(first_BD))
        return pooled_BD


def _layer(layer: Any, products: torch.dtype) -> _Layer:
    own, out = layer.attention.self, layer.attention.output
    return _Layer(
        _Linear([own.query, own.key, own.value], products),
        _Linear([out.dense], products),
        _Linear([layer.intermediate.dense], products, gelu=True),
        _Linear([layer.output.dense], products),
        (out.LayerNorm, layer.output.LayerNorm),
    )


def _linears(language_model: Any) -> list[Any]:
    return [
        part
        for layer in language_model.encoder.layer
        for own in (layer.attention.self,)
        for part in (
            own.query,
            own.key,
            own.value,
            layer.attention.output.dense,
            layer.intermediate.dense,
            layer.output.dense,
        )
    ]


def _normed(norm: nn.LayerNorm, x_TD: Tensor) -> Tensor:
    return F.layer_norm(x_TD, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
