"""What all model directories have in common: key tables, filling a model strictly, reading their JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.models.errors import ModelError
from engine.models.layers.parallel import Split, TensorShard, share_blocks
from engine.models.layers.precision import set_precision

_LAYER_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_SHOWN = 5  # keys listed in an error; a wrong config.json would list them all


class KeyTable:
    """Official state-dict names <-> ours, from a plain table without the closing `.weight` or `.bias`.

    `{}` in the table stands for a layer number.
    """

    def __init__(self, official_to_ours: Mapping[str, str]) -> None:
        self._ours = dict(official_to_ours)
        self._official = {ours: official for official, ours in official_to_ours.items()}

    def ours(self, official: str) -> str | None:
        """Our name of an official key; None for one without a place in the model."""
        return _translate(official, self._ours)

    def official(self, ours: str) -> str:
        """Official name of one of our keys, which all have one."""
        found = _translate(ours, self._official)
        if found is None:
            raise ModelError(f"no official name for {ours}")
        return found

    def export(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's weights under official names, float32 on the CPU, ready for safetensors."""
        return {
            self.official(name): tensor.detach().float().cpu().contiguous()
            for name, tensor in model.state_dict().items()
        }


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint: its shape is known, its numbers are read when asked for.

    read: the part that slices (of the leading axes) cut out; `()` for all of it.
    """

    shape: tuple[int, ...]
    read: Callable[[tuple[slice, ...]], Tensor]


def require_fit(
    model: nn.Module, weights: Mapping[str, Tensor] | Mapping[str, StoredTensor], source: str
) -> None:
    """ModelError, listing what does not fit, unless the weights (our names) are just those of the model.

    source: what the weights and the model's sizes came from.
    """
    wanted = model.state_dict()
    problems = {
        "missing": [name for name in wanted if name not in weights],
        "not in the model": [name for name in weights if name not in wanted],
        "of other shape": [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in wanted
            if name in weights and weights[name].shape != wanted[name].shape
        ],
    }
    found = [f"{kind}: {', '.join(names[:_SHOWN])}" for kind, names in problems.items() if names]
    if found:
        raise ModelError(f"{source}: the weights do not fit the configuration; {'; '.join(found)}")


def fill(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Puts weights (our names) into the model without copying; raises as `require_fit` does."""
    require_fit(model, weights, source)
    wanted = model.state_dict()
    model.load_state_dict({name: weights[name].to(wanted[name].dtype) for name in wanted}, assign=True)
    model.requires_grad_(True)


def assemble(
    encoder: nn.Module,
    stored: Mapping[str, StoredTensor],
    source: str,
    *,
    precision: str,
    weights: bool,
    plan: Mapping[str, Split],
    shard: TensorShard | None,
) -> None:
    """Make an encoder on the meta device the one that was asked for.

    Shapes are checked either way, numbers are read only with `weights`: those of the rank's own layers when
    there is a shard, each cast to its precision before the next one is read.
    """
    require_fit(encoder, stored, source)
    set_precision(encoder, precision)
    splits = share_blocks(encoder.get_submodule("blocks").children(), plan, shard) if shard else {}
    if weights:
        parts = {}
        for name, whole in encoder.state_dict().items():
            split = splits.get(name.removeprefix("blocks."))
            pieces = split.pieces(stored[name].shape, shard) if split and shard else [()]
            found = [stored[name].read(piece) for piece in pieces]
            parts[name] = (torch.cat(found) if len(found) > 1 else found[0].contiguous()).to(whole.dtype)
        fill(encoder, parts, source)
    if shard:
        encoder.requires_grad_(False)
    encoder.eval()


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """All tensors of a file by name; only its header is read yet. Raises ModelError if damaged.

    What is read is mapped: pages nobody computes with never enter memory, and processes of a machine share
    those they do.
    """
    try:
        file: Any = safe_open(path, framework="pt")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged or not a safetensors file ({error})") from error
    return {
        name: StoredTensor(tuple(found.get_shape()), partial(_read_slices, found))
        for name, found in slices.items()
    }


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, mapped rather than read where the system can. Raises ModelError if damaged."""
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged or not a safetensors file ({error})") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError when the file is missing or holds anything else."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{path.parent}: {path.name} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: expected an object, found {type(found).__name__}")
    return found


def settings_of(
    config: Mapping[str, Any], model_type: str, of_what: str, known: Iterable[str], required: Iterable[str]
) -> dict[str, Any]:
    """What a parsed config.json of ours gives beside its `model_type`. Raises ModelError when it is of
    another model, lacks something or holds what is not known. `of_what`: completes "not the directory of".
    """
    if config.get("model_type") != model_type:
        raise ModelError(
            f"config.json: model_type is {config.get('model_type')!r}, expected {model_type}: not the "
            f"directory of {of_what}"
        )
    given = {name: value for name, value in config.items() if name != "model_type"}
    unknown = sorted(given.keys() - set(known))
    missing = [name for name in required if name not in given]
    if unknown or missing:
        raise ModelError(f"config.json: not known: {unknown}, missing: {missing}")
    return given


def _read_slices(found: Any, at: tuple[slice, ...]) -> Tensor:
    part: Tensor = found[at or ...]
    return part


def _translate(key: str, table: Mapping[str, str]) -> str | None:
    stem, _, kind = key.rpartition(".")
    numbers = _LAYER_NUMBER.findall(stem)
    found = table.get(_LAYER_NUMBER.sub("{}", stem))
    return None if found is None else f"{found.format(*numbers)}.{kind}"
