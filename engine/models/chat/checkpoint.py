"""Chat model directories: config.json, projector.safetensors, and the language model's own in a folder.

`language_model/` is one that transformers.AutoModelForCausalLM opens.
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.models.chat.config import MODEL_TYPE, ChatConfig, from_json, to_json
from engine.models.chat.language_model import load_language_model, load_tokeniser
from engine.models.chat.model import ChatModel
from engine.models.chat.projector import Projector
from engine.models.errors import ModelError
from engine.models.joint.lora import has_lora, merge_lora
from engine.models.weights import fill, read_json, read_safetensors

PROJECTOR, LANGUAGE_MODEL = "projector.safetensors", "language_model"
# What makes a language model's directory: not its other formats, and not the hub's files about it.
_NEEDED = ("*.json", "*.safetensors", "*.model", "*.jinja", "merges.txt")


def is_chat(directory: Path) -> bool:
    """Whether a directory holds a chat model."""
    config = directory / "config.json"
    return config.is_file() and read_json(config).get("model_type") == MODEL_TYPE


def load_config(directory: Path | str) -> ChatConfig:
    """Raises ModelError when the directory holds no chat model."""
    return from_json(read_json(Path(directory) / "config.json"))


def load_projector(directory: Path | str) -> Projector:
    """The projector alone, float32, eval mode, on the CPU: for a language model that runs elsewhere."""
    directory = Path(directory)
    if not (directory / PROJECTOR).is_file():
        raise ModelError(f"{directory}: {PROJECTOR} is missing")
    projector = Projector(load_config(directory))
    fill(projector, read_safetensors(directory / PROJECTOR), str(directory))
    return projector.eval()


def load(directory: Path | str, *, dtype: torch.dtype | None = None) -> ChatModel:
    """The chat model of a directory that `save` wrote, in eval mode on the CPU.

    dtype: of the language model's weights; None for what they are stored in. Raises ModelError for a missing
    file or key, naming it.
    """
    directory = Path(directory)
    config = load_config(directory)
    language_model = load_language_model(directory / LANGUAGE_MODEL, dtype)
    tokeniser = load_tokeniser(directory / LANGUAGE_MODEL)
    model = ChatModel(config, load_projector(directory), language_model, tokeniser, frozen=True)
    return model.eval()


def save(model: ChatModel, directory: Path | str, *, unchanged: Path | str | None = None) -> None:
    """Writes the model's directory; LoRA additions are merged into their weights, the model stays as it is.

    unchanged: directory of the language model where training left it alone; its files are copied.
    """
    directory = Path(directory)
    (directory / LANGUAGE_MODEL).mkdir(parents=True, exist_ok=True)
    if unchanged is None:
        _save_language_model(model.language_model, directory / LANGUAGE_MODEL)
        model.tokeniser.tokeniser.save_pretrained(directory / LANGUAGE_MODEL)
    else:
        _copy_language_model(Path(unchanged), directory / LANGUAGE_MODEL)
    weights = {
        name: part.detach().float().cpu().contiguous() for name, part in model.projector.state_dict().items()
    }
    save_file(weights, directory / PROJECTOR, metadata={"format": "pt"})
    # Last: a loader knows a chat model by this file.
    (directory / "config.json").write_text(json.dumps(to_json(model.config), indent=2))


def _save_language_model(language_model: Any, directory: Path) -> None:
    if has_lora(language_model):
        language_model = copy.deepcopy(language_model)
        merge_lora(language_model)
    language_model.save_pretrained(directory, safe_serialization=True)


def _copy_language_model(source: Path, directory: Path) -> None:
    for pattern in _NEEDED:
        for file in source.glob(pattern):
            shutil.copyfile(file, directory / file.name)
