"""Joint model directories: config.json and the heads in model.safetensors, a directory for each tower inside.

`cell/` is an encoder directory in its official layout (`engine.models.load` opens it), `text/` one that
transformers.AutoModel opens.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine import models
from engine.models.encoder import Encoder
from engine.models.errors import ModelError
from engine.models.joint.config import MODEL_TYPE, JointConfig, from_json, to_json
from engine.models.joint.lora import merge_lora
from engine.models.joint.model import JointModel
from engine.models.joint.text_tower import TextTower, load_text_tower, save_text_tower
from engine.models.precision import Precision
from engine.models.weights import read_json, read_safetensors, require_fit

CELL, TEXT, WEIGHTS = "cell", "text", "model.safetensors"
TOWERS = ("cell_tower.", "text_tower.")


def is_joint(directory: Path) -> bool:
    """Whether a directory holds a joint model."""
    config = directory / "config.json"
    return config.is_file() and read_json(config).get("model_type") == MODEL_TYPE


def load(directory: Path | str, *, precision: Precision = "fp32") -> JointModel:
    """The joint model of a directory that `save` wrote, in eval mode on the CPU.

    precision: bf16 runs both towers' matrices in bfloat16; heads and embeddings stay float32.
    Raises ModelError for a missing file or key, naming it.
    """
    directory = Path(directory)
    config = from_json(read_json(directory / "config.json"))
    cell_tower = models.load(directory / CELL, precision=precision)
    text_tower = load_text_tower(directory / TEXT, pool=config.text_pool, max_tokens=config.max_text_tokens)
    if precision == "bf16":
        text_tower.to(torch.bfloat16)
    if not (directory / WEIGHTS).is_file():
        raise ModelError(f"{directory}: {WEIGHTS} is missing")
    model = JointModel(config, cell_tower, text_tower)
    fill_heads(model, read_safetensors(directory / WEIGHTS), str(directory))
    return model.eval()


def save(model: JointModel, directory: Path | str) -> None:
    """Writes the model's directory, LoRA additions merged into their weights; the model stays as it is."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    models.save(_merged(model.cell_tower), directory / CELL)
    save_text_tower(_merged(model.text_tower), directory / TEXT)
    weights = {name: part.detach().cpu().contiguous() for name, part in head_weights(model).items()}
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})
    # Last: a loader knows a joint model by this file.
    (directory / "config.json").write_text(json.dumps(to_json(model.config), indent=2))


def create(
    cell_tower: Encoder | Path | str,
    text_tower: TextTower | Path | str,
    *,
    width: int = 512,
    dims: tuple[int, ...] = (),
    head: str = "sphere",
    cell_layer: int | None = None,
    cell_pool: str | None = None,
    max_text_tokens: int = 128,
    sigmoid: bool = False,
    seed: int = 0,
    metadata: dict[str, Any] | None = None,
) -> JointModel:
    """A joint model of two pretrained towers (or their directories) and fresh heads, in eval mode.

    Arguments as in JointConfig. The same seed gives the same heads. Raises ModelError as loading towers does.
    """
    cells = cell_tower if isinstance(cell_tower, Encoder) else models.load(cell_tower)
    texts = (
        text_tower
        if isinstance(text_tower, TextTower)
        else load_text_tower(text_tower, max_tokens=max_text_tokens)
    )
    config = JointConfig(
        cell_width=cells.d_model,
        text_width=texts.d_model,
        width=width,
        head=head,
        dims=dims,
        cell_layer=cell_layer,
        cell_pool=cell_pool,
        text_pool=texts.pool,
        max_text_tokens=texts.max_tokens,
        sigmoid=sigmoid,
        metadata=metadata or {},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return JointModel(config, cells, texts).eval()


def head_weights(model: JointModel) -> dict[str, Tensor]:
    """All of a model but its towers: heads, scale and bias, by name."""
    return {name: part for name, part in model.state_dict().items() if not name.startswith(TOWERS)}


def fill_heads(model: JointModel, weights: dict[str, Tensor], source: str) -> None:
    """Puts heads, scale and bias (our names) into the model. Raises ModelError unless they are just those."""
    towers = {name: part for name, part in model.state_dict().items() if name.startswith(TOWERS)}
    require_fit(model, {**towers, **weights}, source)
    model.load_state_dict(weights, strict=False)


def _merged(tower: Any) -> Any:
    tower = copy.deepcopy(tower)
    merge_lora(tower)
    return tower
