"""Any causal language model of transformers, from a local directory, offline and without code of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.models.errors import ModelError
from engine.models.weights import read_json

TOKENISER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_language_model(directory: Path | str, dtype: torch.dtype | None = None) -> Any:
    """In eval mode on the CPU. dtype: None for the one its weights are stored in.

    Raises ModelError when the directory holds no causal language model as safetensors, or one that needs
    code of its own.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # jobs have a line of progress of their own
    directory = require_language_model(directory)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(directory),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="auto" if dtype is None else dtype,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{directory}: cannot be opened as a causal language model ({error})") from error
    if info["missing_keys"] or info.get("mismatched_keys"):
        wrong = sorted(map(str, [*info["missing_keys"], *info.get("mismatched_keys", ())]))
        raise ModelError(f"{directory}: weights are missing or of another size: {', '.join(wrong[:5])}")
    return model.eval()


def empty_language_model(directory: Path | str, device: str = "cpu") -> Any:
    """The same model with weights of no meaning, float32, to be filled with others; on the device `meta` it
    is only there to be looked at.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(
        str(require_language_model(directory)), local_files_only=True, trust_remote_code=False
    )
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False).float().eval()


def stored_dtype(directory: Path | str) -> torch.dtype:
    """The type its configuration says its weights are stored in."""
    config = read_json(Path(directory) / "config.json")
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name, torch.float32)


def load_tokeniser(directory: Path | str) -> Any:
    """Its tokeniser. Raises ModelError when there is none, or none that knows places of tokens in a text."""
    from transformers import AutoTokenizer

    directory = require_language_model(directory)
    if not any((directory / name).is_file() for name in TOKENISER_FILES):
        raise ModelError(f"{directory}: no tokeniser; expected one of {', '.join(TOKENISER_FILES)}")
    tokeniser = AutoTokenizer.from_pretrained(
        str(directory), local_files_only=True, trust_remote_code=False, use_fast=True
    )
    if not tokeniser.is_fast:
        raise ModelError(f"{directory}: the tokeniser must be a fast one (tokenizer.json)")
    return tokeniser


def require_language_model(directory: Path | str) -> Path:
    """The directory. Raises ModelError unless a config.json says it holds a transformers model."""
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory}: config.json is missing; expected the directory of a language model")
    if "architectures" not in (config := read_json(directory / "config.json")) and "model_type" not in config:
        raise ModelError(f"{directory}: config.json names no architecture of transformers")
    return directory


def width_of(language_model: Any) -> int:
    """Width of its input embeddings."""
    return int(language_model.get_input_embeddings().weight.shape[1])


def template_for(tokeniser: Any) -> str:
    """The template whose tokens this tokeniser knows."""
    known = tokeniser.get_vocab()
    if "<|im_start|>" in known and "<|im_end|>" in known:
        return "chatml"
    return "llama3" if "<|start_header_id|>" in known else "mistral"
