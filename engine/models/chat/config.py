"""Sizes and options of a chat model about cells, as its config.json gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.models.chat.templates import TEMPLATES
from engine.models.errors import ModelError
from engine.models.weights import settings_of

MODEL_TYPE = "syncytium-chat"


@dataclass(frozen=True)
class ChatConfig:
    """What lies between a joint model's space and a language model, and how conversations are written.

    cell_width: width of the joint space. model_width: of the language model's input embeddings.
    n_tokens: soft tokens that stand for one selection of cells.
    hidden_width: of the projector's one hidden layer; CellWhisperer's is n_tokens * model_width.
    template: how turns are written for the language model, one of `templates.TEMPLATES`.
    unit: whether the mean of a selection's vectors is brought to length one; CellWhisperer's is not.
    repetition_penalty: of what was said before, in answers; 1 for none, CellWhisperer's is 1.2.
    top_genes: whether conversations begin with CellWhisperer's list of the cells' top genes.
    max_tokens: of a conversation and its answer.
    joint: fingerprint of the joint model that it was trained on; None if not known.
    metadata: provenance; JSON values.
    """

    cell_width: int
    model_width: int
    n_tokens: int = 8
    hidden_width: int = 1024
    template: str = "mistral"
    unit: bool = True
    repetition_penalty: float = 1.0
    top_genes: bool = False
    max_tokens: int = 2048
    joint: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.cell_width, self.model_width, self.n_tokens, self.hidden_width) < 1:
            raise ModelError("all widths of a chat model, and its number of soft tokens, must be at least 1")
        if self.template not in TEMPLATES:
            raise ModelError(f"template {self.template!r} is not known; known are {', '.join(TEMPLATES)}")
        if self.max_tokens <= self.n_tokens:
            raise ModelError(
                f"max_tokens is {self.max_tokens}, but a selection of cells alone is {self.n_tokens} tokens"
            )


def from_json(config: Mapping[str, Any]) -> ChatConfig:
    """Configuration from a parsed config.json. Raises ModelError when it is not one of a chat model."""
    required = ("cell_width", "model_width")
    given = settings_of(
        config, MODEL_TYPE, "a chat model, as train-chat writes it", ChatConfig.__dataclass_fields__, required
    )
    return ChatConfig(**given)


def to_json(config: ChatConfig) -> dict[str, Any]:
    """config.json that `from_json` opens."""
    return {"model_type": MODEL_TYPE, **asdict(config)}
