"""Sizes and options of a sparse autoencoder, as a SAELens cfg.json gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.models.errors import ModelError

# Architectures that are written to disk under their own name.
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
# Training forms: one running threshold for all features; `folds.export_form` turns it into JumpReLU.
TRAINING_FORMS = ("batchtopk", "matryoshka_batchtopk")
# SAELens' names of an autoencoder that reads one hook and writes another: architecture, has a linear skip.
TRANSCODERS = {
    "transcoder": ("standard", False),
    "skip_transcoder": ("standard", True),
    "jumprelu_transcoder": ("jumprelu", False),
    "jumprelu_skip_transcoder": ("jumprelu", True),
}
NORMALISATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")


@dataclass(frozen=True)
class SAEConfig:
    """Field names are SAELens' (cfg.json); `metadata` is open and keeps our provenance.

    k: active features per token (topk) or per token on average (batchtopk, matryoshka_batchtopk; may be a
    fraction). rescale_acts_by_decoder_norm belongs to the same three. reshape_activations "hook_z" only says
    that x is a flattened [heads, head width]; x is always flat here.
    d_out: width of what is reconstructed when it is not the input (a transcoder; b_dec is then no part of
    the encoder). skip: a transcoder with a linear map from input to output beside the features.
    """

    architecture: str
    d_in: int
    d_sae: int
    k: int | float | None = None
    rescale_acts_by_decoder_norm: bool = False
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    reshape_activations: str = "none"
    dtype: str = "float32"
    metadata: dict[str, Any] = field(default_factory=dict)
    d_out: int | None = None
    skip: bool = False

    @property
    def reconstructs(self) -> int:
        """Width of the reconstruction."""
        return self.d_in if self.d_out is None else self.d_out

    def __post_init__(self) -> None:
        if self.architecture not in (*ARCHITECTURES, *TRAINING_FORMS):
            raise ModelError(
                f"cfg.json: architecture {self.architecture!r} is not supported; supported are "
                f"{', '.join((*ARCHITECTURES, *TRAINING_FORMS, *TRANSCODERS))}"
            )
        if self.normalize_activations not in NORMALISATIONS:
            raise ModelError(
                f"cfg.json: normalize_activations {self.normalize_activations!r} is not supported; "
                f"supported are {', '.join(NORMALISATIONS)}. Fold it into the weights before export"
            )
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ModelError(f"cfg.json: dtype {self.dtype!r}; expected float32, bfloat16 or float16")
        self._check_k()
        self._check_transcoder()

    def _check_k(self) -> None:
        if self.architecture not in ("topk", *TRAINING_FORMS):
            return
        if not (self.k and 0 < self.k <= self.d_sae) or (self.architecture == "topk" and self.k < 1):
            raise ModelError(
                f"cfg.json: k is {self.k}; a {self.architecture} autoencoder needs 1 <= k <= d_sae "
                f"({self.d_sae})"
            )

    def _check_transcoder(self) -> None:
        if self.d_out is None:
            if self.skip:
                raise ModelError("cfg.json: a skip connection needs d_out; only transcoders have one")
            return
        if self.apply_b_dec_to_input:
            raise ModelError("cfg.json: apply_b_dec_to_input must be false in a transcoder")
        if self.normalize_activations not in ("none", "expected_average_only_in"):
            raise ModelError(f"cfg.json: a transcoder cannot have {self.normalize_activations} inputs")
        if self.architecture in ("topk", "gated"):
            raise ModelError(
                f"a {self.architecture} transcoder has no SAELens form; train batchtopk, which exports as "
                "jumprelu"
            )


def from_json(config: Mapping[str, Any]) -> SAEConfig:
    """Configuration from a parsed cfg.json; keys that only matter to SAELens' own code are ignored."""
    missing = [key for key in ("architecture", "d_in", "d_sae") if key not in config]
    if missing:
        raise ModelError(f"cfg.json: {', '.join(missing)} is missing; is this a SAELens directory?")
    known = {name: config[name] for name in SAEConfig.__dataclass_fields__ if name in config}
    known["dtype"] = str(known.get("dtype", "float32")).removeprefix("torch.")
    if config["architecture"] in TRANSCODERS:
        if "d_out" not in config:
            raise ModelError(f"cfg.json: d_out is missing; a {config['architecture']} needs it")
        known["architecture"], known["skip"] = TRANSCODERS[config["architecture"]]
    if config["architecture"] in TRAINING_FORMS:
        known.setdefault("rescale_acts_by_decoder_norm", True)  # SAELens' default while training
    return SAEConfig(**known)


def to_json(config: SAEConfig) -> dict[str, Any]:
    """cfg.json as SAELens writes it: keys only where they mean something."""
    written = asdict(config) | {"device": "cpu"}
    if config.architecture not in ("topk", *TRAINING_FORMS):
        del written["k"], written["rescale_acts_by_decoder_norm"]
    if config.d_out is None:
        del written["d_out"], written["skip"]
    elif config.architecture in ARCHITECTURES:
        names = {form: name for name, form in TRANSCODERS.items()}
        written["architecture"] = names[config.architecture, written.pop("skip")]
    return written
