"""Sizes and options of a joint model of cells and texts, as its config.json gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from engine.models.errors import ModelError
from engine.models.weights import settings_of

MODEL_TYPE = "syncytium-joint"
HEADS = ("residual", "sphere")
TEXT_POOLS = ("pooler", "cls", "mean")
TextPool = Literal["pooler", "cls", "mean"]


@dataclass(frozen=True)
class JointConfig:
    """Architecture of what lies between the towers' features and the common space.

    cell_width, text_width: widths of the towers' features. width: of the common space.
    head: "residual" (CellWhisperer) or "sphere" (one linear map and a LayerNorm, as in LingoCell).
    dims: Matryoshka widths, ascending, the last one `width`: the leading so many numbers of an embedding,
        brought to length one again, are an embedding too.
    cell_layer, cell_pool: which state of the cell tower is its feature; None for its authors' convention.
    text_pool: "pooler" (BERT's tanh(dense(first token))), "cls" (first token) or "mean" over tokens.
    max_text_tokens: tokens of a text that are read, special ones included.
    sigmoid: whether it was trained with SigLIP's pairwise loss, whose logits have a bias.
    metadata: provenance; JSON values.
    """

    cell_width: int
    text_width: int
    width: int
    head: str = "sphere"
    dims: tuple[int, ...] = ()
    cell_layer: int | None = None
    cell_pool: str | None = None
    text_pool: TextPool = "mean"
    max_text_tokens: int = 128
    sigmoid: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims) or (self.width,))
        if self.head not in HEADS:
            raise ModelError(f"head {self.head!r} is not known; known are {', '.join(HEADS)}")
        if self.text_pool not in TEXT_POOLS:
            raise ModelError(f"text_pool {self.text_pool!r} is not known; known are {', '.join(TEXT_POOLS)}")
        if min(self.cell_width, self.text_width, self.width, *self.dims) < 1:
            raise ModelError("all widths of a joint model must be at least 1")
        if list(self.dims) != sorted(set(self.dims)) or self.dims[-1] != self.width:
            raise ModelError(
                f"dims {list(self.dims)}: expected ascending widths of which the last is the whole width, "
                f"{self.width}"
            )
        if self.max_text_tokens < 3:
            raise ModelError(f"max_text_tokens is {self.max_text_tokens}; a text needs at least 3")


def from_json(config: Mapping[str, Any]) -> JointConfig:
    """Configuration from a parsed config.json. Raises ModelError when it is not one of a joint model."""
    required = ("cell_width", "text_width", "width")
    given = settings_of(config, MODEL_TYPE, "a joint model", JointConfig.__dataclass_fields__, required)
    return JointConfig(**given)


def to_json(config: JointConfig) -> dict[str, Any]:
    """config.json that `from_json` opens."""
    return {"model_type": MODEL_TYPE, **asdict(config), "dims": list(config.dims)}
