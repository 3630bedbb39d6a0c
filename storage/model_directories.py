"""What a model directory holds, read from its configuration and the headers of its weights; no model is
built.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any

import yaml

from storage.activations.shards import read_header
from storage.checkpoints import CONFIGURATIONS, fingerprint, model_files
from storage.errors import DamagedDataset
from storage.locations import Location

TRAINING_PLAN, TRAINING_RECORD = "checkpoints/plan.json", "training.json"

# Vocabularies by the names their models' authors gave them, as JSON here.
_VOCABULARIES = ("vocab.json", "token_dictionary.json")


def is_model_directory(location: Location) -> bool:
    """Whether a model, or the training of one, is here."""
    return any(location.exists(name) for name in (*CONFIGURATIONS, TRAINING_PLAN))


def describe_model(location: Location) -> tuple[dict[str, Any], list[str]]:
    """(facts, problems): kind, fingerprint, parameters, configuration, training; weights that are cut off."""
    configuration = next((name for name in CONFIGURATIONS if location.exists(name)), None)
    facts: dict[str, Any] = {"kind": "training run, no model yet" if configuration is None else ""}
    problems: list[str] = []
    if configuration is not None:
        settings = _read_settings(location, configuration)
        facts["kind"] = _kind(configuration, settings)
        facts["fingerprint"] = fingerprint(str(location))
        sizes = location.list()
        facts["bytes"] = sum(sizes[name] for name in model_files(location))
        weights, problems = _weights(location)
        facts |= weights | _vocabulary(location)
        facts["configuration"] = {
            name: value for name, value in settings.items() if not isinstance(value, dict | list)
        }
    return facts | _training(location), problems


def _kind(configuration: str, settings: dict[str, Any]) -> str:
    if configuration == "model_config.yml":
        return "Tahoe-x1 encoder"
    if configuration == "cfg.json":
        return f"sparse autoencoder ({settings.get('architecture', 'standard')})"
    if settings.get("model_type") == "syncytium-joint":
        return "joint model of cells and texts"
    if settings.get("model_type") == "bert":
        return "Geneformer encoder"
    return f"model ({settings.get('model_type', 'unnamed')})"


def _read_settings(location: Location, name: str) -> dict[str, Any]:
    content = location.read(name)
    try:
        settings = yaml.safe_load(content) if name.endswith(".yml") else json.loads(content)
    except (ValueError, yaml.YAMLError) as error:
        raise DamagedDataset(f"{location}/{name}: cannot be read ({error})") from error
    return dict(settings or {})


def _weights(location: Location) -> tuple[dict[str, Any], list[str]]:
    """Parameters by dtype over all safetensors files, and a line for every file that is not whole."""
    by_dtype: dict[str, int] = {}
    problems = []
    sizes = location.list()
    for name in model_files(location):
        if not name.endswith(".safetensors"):
            continue
        try:
            tensors, expected = _tensors(location, name)
        except (DamagedDataset, ValueError, OverflowError) as error:
            problems.append(f"{name}: not a safetensors file ({error})")
            continue
        for tensor in tensors:
            by_dtype[tensor["dtype"]] = by_dtype.get(tensor["dtype"], 0) + prod(tensor["shape"])
        if sizes[name] != expected:
            problems.append(f"{name}: {sizes[name]} bytes, {expected} expected from its header")
    return {"parameters": sum(by_dtype.values()), "parameters_by_dtype": by_dtype}, problems


def _tensors(location: Location, name: str) -> tuple[list[dict[str, Any]], int]:
    """The header entries of a safetensors file, and how many bytes the file must have."""

    def read(start: int, stop: int) -> bytes:
        return location.read_ranges(name, [(start, stop)])[0]

    header = read_header(read)
    tensors = [entry for tensor, entry in header.items() if tensor != "__metadata__"]
    end = max((tensor["data_offsets"][1] for tensor in tensors), default=0)
    return tensors, 8 + int.from_bytes(read(0, 8), "little") + end


def _vocabulary(location: Location) -> dict[str, Any]:
    for name in _VOCABULARIES:
        if location.exists(name):
            return {"vocabulary": f"{len(json.loads(location.read(name))):,} tokens in {name}"}
    return {}


def _training(location: Location) -> dict[str, Any]:
    if not location.exists(TRAINING_PLAN):
        return {}
    plan = json.loads(location.read(TRAINING_PLAN))
    steps = {
        name.split("/")[1] for name in location.list("checkpoints") if name.startswith("checkpoints/step_")
    }
    return {
        "training": "finished"
        if location.exists(TRAINING_RECORD)
        else "not finished; run the job again to resume",
        "checkpoints": sorted(steps),
        "lineage_id": plan.get("lineage_id"),
        "lineage": plan.get("lineage"),
    }
