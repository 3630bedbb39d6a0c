"""CellWhisperer's chat models (a LLaVA fork) to a chat model, offline and without its code.

Source of names and sizes: epigen/LLaVA, `mm_projector_type` "mlp2x_8t_gelu": the projector is a sequence of
two linear layers under `model.mm_projector.`, in a `mm_projector.bin` of its own after the first stage, among
the language model's weights after the second. Only such projectors are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.models.chat.config import ChatConfig
from engine.models.chat.language_model import load_language_model, load_tokeniser
from engine.models.chat.model import ChatModel
from engine.models.chat.projector import Projector
from engine.models.errors import ModelError
from engine.models.foreign import open_tensors
from engine.models.weights import StoredTensor, fill, open_safetensors, read_json

PREFIX = "mm_projector."
PROJECTOR_FILE = "mm_projector.bin"
_KIND = re.compile(r"mlp2x_(\d+)t_gelu")
# The language models under LLaVA's names.
_FAMILIES = {"llava_mistral": "mistral", "llava_llama": "llama", "llava": "llama"}


def convert(directory: Path | str, language_model: Path | str | None = None) -> ChatModel:
    """The chat model of a directory as their training leaves it, in eval mode on the CPU.

    language_model: the base model's directory, where theirs holds the projector alone (first stage); also
        where its tokeniser is not in theirs. Raises ModelError for what is missing, of another size or of
        another kind; UnsafePickle for a pickle that names what it has no reason to.
    """
    directory = Path(directory)
    settings = read_json(directory / "config.json")
    stored = open_weights(directory)
    projector_weights = projector_of(stored, str(directory))
    base = Path(language_model) if language_model else directory
    tokeniser = load_tokeniser(base)
    inner = {name: part for name, part in stored.items() if PREFIX not in name}
    model = _language_model(settings, inner, directory) if inner else load_language_model(base)
    config = config_of(settings, projector_weights, str(directory))
    projector = Projector(config)
    fill(projector, projector_weights, str(directory))
    return ChatModel(config, projector.eval(), model, tokeniser).eval()


def open_weights(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of a directory by name, each read when it is asked for."""
    stored: dict[str, StoredTensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        stored |= open_safetensors(file)
    for file in sorted([*directory.glob("pytorch_model*.bin"), *directory.glob(PROJECTOR_FILE)]):
        stored |= open_tensors(file)
    if not stored:
        raise ModelError(f"{directory}: no weights (*.safetensors, pytorch_model*.bin or {PROJECTOR_FILE})")
    return stored


def projector_of(stored: Mapping[str, StoredTensor], source: str) -> dict[str, Tensor]:
    """The projector's weights under our names, float32."""
    found = {
        name.partition(PREFIX)[2]: part.read(()).float() for name, part in stored.items() if PREFIX in name
    }
    if set(found) != {"0.weight", "0.bias", "2.weight", "2.bias"}:
        raise ModelError(
            f"{source}: expected a projector of two layers, {PREFIX}0 and {PREFIX}2; found {sorted(found)}"
        )
    return found


def config_of(settings: Mapping[str, Any], projector: Mapping[str, Tensor], source: str) -> ChatConfig:
    """Sizes from the weights; the number of tokens from the settings' `mm_projector_type`."""
    kind = _KIND.fullmatch(str(settings.get("mm_projector_type")))
    if kind is None:
        raise ModelError(
            f"{source}: mm_projector_type is {settings.get('mm_projector_type')!r}; only mlp2x_<n>t_gelu can "
            "be converted"
        )
    hidden, cell_width = projector["0.weight"].shape
    n_out, n_tokens = len(projector["2.weight"]), int(kind[1])
    if n_tokens < 1 or n_out % n_tokens:
        raise ModelError(f"{source}: a projector to {n_out} numbers makes no {n_tokens} tokens")
    return ChatConfig(
        cell_width=cell_width,
        model_width=n_out // n_tokens,
        n_tokens=n_tokens,
        hidden_width=hidden,
        template="mistral",
        unit=False,
        repetition_penalty=1.2,
        top_genes=True,
        max_tokens=int(settings.get("tokenizer_model_max_length") or 2048),
        metadata={"converted_from": "cellwhisperer", "mm_projector_type": kind[0]},
    )


def _language_model(settings: Mapping[str, Any], stored: Mapping[str, StoredTensor], directory: Path) -> Any:
    """Theirs is a Mistral or Llama with a projector beside it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = str(settings.get("model_type"))
    family = _FAMILIES.get(kind)
    if family is None:
        raise ModelError(f"{directory}: model_type is {kind!r}; expected {', '.join(_FAMILIES)}")
    ours = {name: value for name, value in settings.items() if not name.startswith(("mm_", "model_type"))}
    ours.pop("architectures", None)
    config = AutoConfig.for_model(family, **ours)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    kept = {name: part.read(()) for name, part in stored.items() if not name.endswith("rotary_emb.inv_freq")}
    fill(model, kept, str(directory))
    return model.eval()
