"""The state of a run as a checkpoint keeps it: any range of any tensor, read without a GPU or a group.

Files are safetensors (https://github.com/huggingface/safetensors) of flat pieces, each named by kind, tensor
and first element. Only the ranges asked for are read, of files in a directory or an object store.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import nn

from engine.training.fragments import BUFFER, WEIGHT, Fragment
from storage.errors import DamagedDataset
from storage.locations import Location

SEPARATOR = "|"  # no part of a Python name
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def key_of(fragment: Fragment) -> str:
    """The name of a piece in its file."""
    return SEPARATOR.join((fragment.kind, fragment.name, str(fragment.start)))


def rows(state: Mapping[str, torch.Tensor], name: str, start: int, stop: int) -> torch.Tensor:
    """Rows start .. stop of a tensor of a model's state; of a stored one only they are read."""
    return state.rows(name, start, stop) if isinstance(state, StoredState) else state[name][start:stop]


def fill_learnt(module: nn.Module, state: Mapping[str, torch.Tensor], without: tuple[str, ...] = ()) -> None:
    """Put the state of a checkpoint into a module built anew; weights that do not learn stay as they are.

    without: beginnings of names of what was not in training at all. Raises ValueError when they do not fit.
    """
    missing, unexpected = module.load_state_dict(dict(state), strict=False)
    named = module.named_parameters(remove_duplicate=False)
    frozen = {name for name, weight in named if not weight.requires_grad}
    strange = [name for name in missing if name not in frozen and not name.startswith(without)] + unexpected
    if strange:
        raise ValueError(f"the checkpoint does not fit the model: {', '.join(strange[:3])}")


class Part(NamedTuple):
    """Elements start .. stop of a tensor, from byte `at` of a file."""

    start: int
    stop: int
    file: str
    at: int
    dtype: torch.dtype


class StoredState(Mapping[str, torch.Tensor]):
    """The model's state dict less its weights that do not learn; a tensor is read when it is asked for.

    Also rows of them (`rows`) and the optimiser's moments (`read`). Raises DamagedDataset when a piece lacks.
    """

    def __init__(
        self,
        location: Location,
        files: list[str],
        shapes: Mapping[str, list[int]],
        names: Mapping[str, str],
    ) -> None:
        self._location, self._shapes, self._names = location, shapes, names
        self._parts: dict[tuple[str, str], list[Part]] = {}
        for file in files:
            self._index(file)
        for parts in self._parts.values():
            parts.sort()

    def __getitem__(self, name: str) -> torch.Tensor:
        stored = self._names[name]
        shape = self._shapes[stored]
        return self.read(self._kind(stored), stored, 0, math.prod(shape)).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows start .. stop of a weight or buffer."""
        stored = self._names[name]
        _, *rest = self._shapes[stored]
        each = math.prod(rest)
        return self.read(self._kind(stored), stored, start * each, stop * each).view((-1, *rest))

    def read(self, kind: str, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements start .. stop of a tensor, or of its moment."""
        pieces, reached = [], start
        for part in self._parts.get((kind, name), ()):
            low, high = max(part.start, reached), min(part.stop, stop)
            if low == reached < high:
                pieces.append(self._piece(part, low, high))
                reached = high
        if reached < stop:
            raise DamagedDataset(f"{self._location}: elements from {reached} of {kind} {name} are missing.")
        return torch.cat(pieces) if pieces else torch.empty(0)

    def _kind(self, name: str) -> str:
        return WEIGHT if (WEIGHT, name) in self._parts else BUFFER

    def _piece(self, part: Part, low: int, high: int) -> torch.Tensor:
        size, first = part.dtype.itemsize, part.at - part.start * part.dtype.itemsize
        (content,) = self._location.read_ranges(part.file, [(first + low * size, first + high * size)])
        return torch.frombuffer(bytearray(content), dtype=part.dtype)

    def _index(self, file: str) -> None:
        (length,) = self._location.read_ranges(file, [(0, 8)])
        first = 8 + int.from_bytes(length, "little")
        (header,) = self._location.read_ranges(file, [(8, first)])
        for key, entry in json.loads(header).items():
            if key == "__metadata__":
                continue
            kind, name, start = key.split(SEPARATOR)
            (n,) = entry["shape"]
            at = first + entry["data_offsets"][0]
            part = Part(int(start), int(start) + n, file, at, _DTYPES[entry["dtype"]])
            self._parts.setdefault((kind, name), []).append(part)
