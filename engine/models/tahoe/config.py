"""Sizes and options of a Tahoe-x1 model, as its two yaml files give them, with the defaults of the original.

Source of keys and defaults: tahoe_x1 1.0.0. Keys that the original reads without acting on them are ignored:
`kv_nheads`, `qk_ln`, `clip_qkv`, `softmax_scale`, `attn_pdrop`, `data_style`, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.models.errors import ModelError
from engine.models.layers.activation import activation

# Models trained with the triton attention of llm-foundry saw generative tokens under an additive mask; the
# released code drops it and so do we by default (`isolate_generative` brings it back).
MASKED_ATTENTION = "triton"


@dataclass(frozen=True)
class CollatorConfig:
    """How counts become tokens. Field names are the keys of collator_config.yml."""

    num_bins: int = 51
    right_binning: bool = False
    do_binning: bool = True
    log_transform: bool = False
    target_sum: float = 10_000.0
    # The first tokens of a cell keep their value: <cls>, and <drug> where there is one. The 3B model says 2
    # even when its <drug> token is left out, so its first gene then keeps its raw count, as in the original.
    keep_first_n_tokens: int = 1
    max_length: int = 1024
    sampling: bool = True
    pad_token_id: int = 0
    pad_value: float = -2.0
    mask_value: float = -1.0
    mlm_probability: float = 0.5
    use_chem_token: bool = False


@dataclass(frozen=True)
class ChemicalConfig:
    """The drug token of the 3B model: fingerprints of its drugs, projected to a token."""

    n_drugs: int  # rows of the table, the padding row included
    n_bits: int  # Morgan fingerprint length
    activation: str = "gelu"


@dataclass(frozen=True)
class TahoeConfig:
    """Architecture of a Tahoe-x1 model; the fields say the same as the keys of model_config.yml."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    expansion_ratio: int = 4
    transformer_activation: str = "gelu"
    norm_scheme: str = "pre"
    norm_eps: float = 1e-5
    use_glu: bool = False
    gene_use_norm: bool = False
    value_activation: str = "relu"
    value_use_norm: bool = False
    value_max: float = 512.0
    value_dropout: float = 0.1
    decoder_layers: int = 2
    decoder_activation: str = "leaky_relu"
    mvc: bool = True
    mvc_activation: str = "sigmoid"
    mvc_scaled: bool = False
    isolate_generative: bool = False
    chemical: ChemicalConfig | None = None
    collator: CollatorConfig = field(default_factory=CollatorConfig)

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads:
            raise ModelError(f"d_model {self.d_model} is not a multiple of n_heads {self.n_heads}")
        if self.norm_scheme not in ("pre", "post"):
            raise ModelError(f"norm_scheme {self.norm_scheme!r}: expected pre or post")
        for name in (self.transformer_activation, self.value_activation, self.decoder_activation):
            activation(name)
        activation(self.mvc_activation)

    @property
    def head_width(self) -> int:
        return self.d_model // self.n_heads

    @property
    def d_ffn(self) -> int:
        return self.d_model * self.expansion_ratio


# d_model, layers, heads of the released models. Their other options differ only in the 3B model's gelu.
PRESETS: dict[str, dict[str, Any]] = {
    "70m": {"d_model": 512, "n_layers": 12, "n_heads": 8, "max_tokens": 1024, "activation": "relu"},
    "1b": {"d_model": 2048, "n_layers": 24, "n_heads": 16, "max_tokens": 1024, "activation": "relu"},
    "3b": {"d_model": 2560, "n_layers": 32, "n_heads": 20, "max_tokens": 2048, "activation": "gelu"},
}


def from_yaml(
    model: Mapping[str, Any], collator: Mapping[str, Any], *, vocab_size: int, chemical: ChemicalConfig | None
) -> TahoeConfig:
    """Configuration from the parsed yaml files; vocab_size and the drug table's shape come from the weights.

    Raises ModelError for options that change numbers and are not implemented.
    """
    gene, value = model.get("gene_encoder") or {}, model.get("expression_encoder") or {}
    decoder, norm = model.get("expression_decoder") or {}, model.get("norm_config") or {}
    mvc = model.get("mvc")
    _require(model, "cell_emb_style", "cls")
    _require(value, "input_emb_style", "continuous")
    _require(decoder, "n_outputs", 1)
    _require(mvc or {}, "arch_style", "inner product")
    _require(norm, "norm_type", "layernorm", "low_precision_layernorm")
    if gene.get("embeddings"):
        raise ModelError("model_config.yml: gene_encoder.embeddings (extra gene embeddings) is not supported")
    d_model, n_layers, n_heads = _required(model, "d_model", "n_layers", "n_heads")
    return TahoeConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        expansion_ratio=model.get("expansion_ratio", 4),
        transformer_activation=model.get("transformer_activation", "gelu"),
        norm_scheme=model.get("norm_scheme", "pre"),
        norm_eps=float(norm.get("eps", 1e-5)),
        use_glu=model.get("use_glu", False),
        gene_use_norm=gene.get("use_norm", False),
        value_activation=value.get("activation", "relu"),
        value_use_norm=value.get("use_norm", False),
        value_max=float(value.get("max_value", 512)),
        value_dropout=float(value.get("dropout", 0.1)),
        decoder_layers=decoder.get("n_layers", 2),
        decoder_activation=decoder.get("activation", "leaky_relu"),
        mvc=mvc is not None,
        mvc_activation=(mvc or {}).get("query_activation", "sigmoid"),
        mvc_scaled=(mvc or {}).get("scaled_dot_product", False),
        chemical=chemical,
        collator=collator_from_yaml(collator),
    )


def collator_from_yaml(collator: Mapping[str, Any]) -> CollatorConfig:
    """Tokenisation options from the parsed collator_config.yml; keys without effect are ignored."""
    known = {name: collator[name] for name in CollatorConfig.__dataclass_fields__ if name in collator}
    return CollatorConfig(**known)


def to_yaml(config: TahoeConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two yaml files of the official layout, from a configuration."""
    model: dict[str, Any] = {
        "name": "tahoe_x1",
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "expansion_ratio": config.expansion_ratio,
        "transformer_activation": config.transformer_activation,
        "norm_scheme": config.norm_scheme,
        "norm_config": {"norm_type": "layernorm", "eps": config.norm_eps},
        "use_glu": config.use_glu,
        "use_generative_training": False,
        "cell_emb_style": "cls",
        "attn_config": {"attn_impl": "flash", "use_attn_mask": False, "attn_type": "grouped_query_attention"},
        "gene_encoder": {"use_norm": config.gene_use_norm},
        "expression_encoder": {
            "input_emb_style": "continuous",
            "activation": config.value_activation,
            "use_norm": config.value_use_norm,
            "max_value": config.value_max,
            "dropout": config.value_dropout,
        },
        "expression_decoder": {
            "n_outputs": 1,
            "n_layers": config.decoder_layers,
            "activation": config.decoder_activation,
        },
        "precision": "amp_bf16",
    }
    if config.mvc:
        model["mvc"] = {
            "arch_style": "inner product",
            "query_activation": config.mvc_activation,
            "scaled_dot_product": config.mvc_scaled,
        }
    if config.chemical:
        model["chemical_encoder"] = {
            "activation": config.chemical.activation,
            "padding_idx": 0,
            "freeze": False,
        }
    collator = asdict(config.collator) | {"do_padding": True, "do_mlm": True, "use_junk_tokens": False}
    return model, collator


def _require(section: Mapping[str, Any], key: str, *allowed: Any) -> None:
    if section.get(key, allowed[0]) not in allowed:
        raise ModelError(
            f"model_config.yml: {key} is {section[key]!r}; supported: {', '.join(map(repr, allowed))}"
        )


def _required(model: Mapping[str, Any], *keys: str) -> list[int]:
    missing = [key for key in keys if key not in model]
    if missing:
        raise ModelError(f"model_config.yml: {', '.join(missing)} is missing; is this a Tahoe-x1 directory?")
    return [int(model[key]) for key in keys]
