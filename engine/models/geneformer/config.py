"""Sizes and options of a Geneformer model, as its config.json (Hugging Face BERT) gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.models.errors import ModelError
from engine.models.layers.activation import activation


@dataclass(frozen=True)
class GeneformerConfig:
    """Architecture; the defaults are those of Hugging Face's BertConfig where Geneformer keeps them."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ffn: int
    max_tokens: int
    activation: str = "relu"
    norm_eps: float = 1e-12
    hidden_dropout: float = 0.02
    attention_dropout: float = 0.02
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    pad_id: int = 0

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads:
            raise ModelError(
                f"hidden_size {self.d_model} is not a multiple of the {self.n_heads} attention heads"
            )
        activation(self.activation)

    @property
    def head_width(self) -> int:
        return self.d_model // self.n_heads


# Sizes of the published models (specs: config.json of each on the Hugging Face hub).
PRESETS: dict[str, dict[str, Any]] = {
    "V1-10M": {
        "n_layers": 6,
        "d_model": 256,
        "n_heads": 4,
        "ffn": 512,
        "max_tokens": 2048,
        "special_tokens": False,
    },
    "V1-40M": {
        "n_layers": 12,
        "d_model": 512,
        "n_heads": 8,
        "ffn": 1024,
        "max_tokens": 2048,
        "special_tokens": False,
    },
    "V2-104M": {
        "n_layers": 12,
        "d_model": 768,
        "n_heads": 12,
        "ffn": 3072,
        "max_tokens": 4096,
        "dropout": 0.1,
    },
    "V2-316M": {
        "n_layers": 18,
        "d_model": 1152,
        "n_heads": 18,
        "ffn": 4608,
        "max_tokens": 4096,
        "dropout": 0.1,
    },
}

# config.json key -> our field.
FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "d_ffn",
    "max_position_embeddings": "max_tokens",
    "hidden_act": "activation",
    "layer_norm_eps": "norm_eps",
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "type_vocab_size": "type_vocab_size",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_id",
}
REQUIRED = tuple(FIELDS)[:6]


def from_json(config: Mapping[str, Any]) -> GeneformerConfig:
    """Configuration from a parsed config.json. Raises ModelError for anything that is not a plain BERT."""
    if config.get("model_type", "bert") != "bert":
        raise ModelError(f"config.json: model_type is {config['model_type']!r}; Geneformer models are bert")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ModelError("config.json: only absolute position embeddings are supported")
    missing = [key for key in REQUIRED if key not in config]
    if missing:
        raise ModelError(f"config.json: {', '.join(missing)} is missing; is this a Geneformer directory?")
    given = {ours: config[key] for key, ours in FIELDS.items() if config.get(key) is not None}
    # BertConfig's own default where the file is silent; GeneformerConfig's is Geneformer's.
    return GeneformerConfig(**{"activation": "gelu", **given})


def to_json(config: GeneformerConfig) -> dict[str, Any]:
    """config.json that transformers.BertForMaskedLM and `from_json` open."""
    return {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        **{key: getattr(config, ours) for key, ours in FIELDS.items()},
    }
