"""The directory of a perturbation model: config.json, model.safetensors, genes.json.

genes.json: {"genes": names in the order of every [B, G] tensor, "targets": further genes that can be
perturbed, "order": column of each position along the genome}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.models.bimamba.config import from_json, to_json
from engine.models.bimamba.model import PerturbationModel
from engine.models.errors import ModelError
from engine.models.weights import fill, read_json, read_safetensors

CONFIG, WEIGHTS, GENES = "config.json", "model.safetensors", "genes.json"


def load(directory: Path | str) -> PerturbationModel:
    """The model of a directory that `save` wrote, in eval mode on the CPU, float32.

    Raises ModelError for a missing file, field or weight, naming it.
    """
    directory = Path(directory)
    config = from_json(read_json(directory / CONFIG))
    names = read_json(directory / GENES)
    genes, targets = _names(names, "genes", directory), _names(names, "targets", directory)
    if (len(genes), len(targets)) != (config.n_genes, config.n_targets):
        raise ModelError(
            f"{directory / GENES}: {len(genes)} genes and {len(targets)} targets, config.json says "
            f"{config.n_genes} and {config.n_targets}"
        )
    if not (directory / WEIGHTS).is_file():
        raise ModelError(f"{directory}: {WEIGHTS} is missing")
    with torch.device("meta"):  # the weights bring their own memory
        model = PerturbationModel(config)
    fill(model, read_safetensors(directory / WEIGHTS), str(directory))
    if model.order_G.tolist() != names.get("order"):
        raise ModelError(f"{directory / GENES}: `order` is not that of {WEIGHTS}; files of two models?")
    model.genes, model.targets = genes, targets
    return model.eval()


def save(model: PerturbationModel, directory: Path | str) -> None:
    """Writes the model's directory; `load` opens it again."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: part.detach().cpu().contiguous() for name, part in model.state_dict().items()}
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})
    names = {"genes": model.genes, "targets": model.targets, "order": model.order_G.tolist()}
    (directory / GENES).write_text(json.dumps(names))
    # Last: a loader knows a perturbation model by this file.
    (directory / CONFIG).write_text(json.dumps(to_json(model.config), indent=2))


def _names(table: dict[str, Any], key: str, directory: Path) -> tuple[str, ...]:
    found = table.get(key)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ModelError(f"{directory / GENES}: `{key}` must be a list of names")
    return tuple(found)
