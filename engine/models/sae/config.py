"""Sizes and options of a sparse autoencoder, as a SAELens cfg.json gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.models.errors import ModelError

# Architectures with an encoder of their own. BatchTopK and Matryoshka exports are JumpReLU directories.
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
# Their training form holds one threshold for all features; `checkpoint.load` turns it into JumpReLU.
TRAINING_FORMS = ("batchtopk", "matryoshka_batchtopk")
NORMALISATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")


@dataclass(frozen=True)
class SAEConfig:
    """Field names are SAELens' (cfg.json); `metadata` is open and keeps our provenance.

    k and rescale_acts_by_decoder_norm belong to topk. reshape_activations "hook_z" only says that x is a
    flattened [heads, head width]; x is always flat here.
    """

    architecture: str
    d_in: int
    d_sae: int
    k: int | None = None
    rescale_acts_by_decoder_norm: bool = False
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    reshape_activations: str = "none"
    dtype: str = "float32"
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ModelError(
                f"cfg.json: architecture {self.architecture!r} is not supported; supported are "
                f"{', '.join((*ARCHITECTURES, *TRAINING_FORMS))}"
            )
        if self.normalize_activations not in NORMALISATIONS:
            raise ModelError(
                f"cfg.json: normalize_activations {self.normalize_activations!r} is not supported; "
                f"supported are {', '.join(NORMALISATIONS)}. Fold it into the weights before export"
            )
        if self.architecture == "topk" and not (self.k and 0 < self.k <= self.d_sae):
            raise ModelError(
                f"cfg.json: k is {self.k}; a topk autoencoder needs 1 <= k <= d_sae ({self.d_sae})"
            )
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ModelError(f"cfg.json: dtype {self.dtype!r}; expected float32, bfloat16 or float16")


def from_json(config: Mapping[str, Any]) -> SAEConfig:
    """Configuration from a parsed cfg.json; keys that only matter to SAELens' own code are ignored."""
    missing = [key for key in ("architecture", "d_in", "d_sae") if key not in config]
    if missing:
        raise ModelError(f"cfg.json: {', '.join(missing)} is missing; is this a SAELens directory?")
    known = {name: config[name] for name in SAEConfig.__dataclass_fields__ if name in config}
    known["dtype"] = str(known.get("dtype", "float32")).removeprefix("torch.")
    if config["architecture"] in TRAINING_FORMS:
        known["architecture"] = "jumprelu"
        known.pop("k", None)
        known.pop("rescale_acts_by_decoder_norm", None)
    return SAEConfig(**known)


def to_json(config: SAEConfig) -> dict[str, Any]:
    """cfg.json as SAELens writes it: the topk keys only where they mean something."""
    written = asdict(config) | {"device": "cpu"}
    if config.architecture != "topk":
        del written["k"], written["rescale_acts_by_decoder_norm"]
    return written
