"""Conversations about cells: a projector from a joint model's space to soft tokens of any language model.

from engine.models import chat
model = chat.load(directory)
ids_S = model.tokeniser.encode([chat.Turn("user", "What are these cells?", n_cells=1)]).ids_S
answer = "".join(chat.generate(model, ids_S, cells_NU, chat.Sampling()))
"""

from engine.models.chat.checkpoint import is_chat, load, load_config, load_projector, save
from engine.models.chat.config import ChatConfig
from engine.models.chat.generate import Sampling, generate
from engine.models.chat.language_model import (
    empty_language_model,
    load_language_model,
    load_tokeniser,
    stored_dtype,
    template_for,
    width_of,
)
from engine.models.chat.model import ChatModel
from engine.models.chat.objective import TrainingModule
from engine.models.chat.projector import Projector, fresh_projector
from engine.models.chat.templates import CELLS, TEMPLATES, Turn, original_turns
from engine.models.chat.tokenise import ChatTokeniser, Encoded, fitted, padded

__all__ = [
    "CELLS",
    "TEMPLATES",
    "ChatConfig",
    "ChatModel",
    "ChatTokeniser",
    "Encoded",
    "Projector",
    "Sampling",
    "TrainingModule",
    "Turn",
    "empty_language_model",
    "fitted",
    "fresh_projector",
    "generate",
    "is_chat",
    "load",
    "load_config",
    "load_language_model",
    "load_projector",
    "load_tokeniser",
    "original_turns",
    "padded",
    "save",
    "stored_dtype",
    "template_for",
    "width_of",
]
