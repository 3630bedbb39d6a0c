"""Tensors and plain values of a PyTorch checkpoint (Tahoe-x1's best-model.pt, CellWhisperer's, old
pytorch_model.bin); what trainers pickled beside them becomes inert."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from engine.models.errors import ModelError
from engine.models.foreign.unpickling import encoded, refusal, unpickled
from engine.models.weights import StoredTensor

_STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Trainers pickle their own state beside the weights. Objects of these packages become Inert: their
# classes are never imported and nothing of theirs is called, so loading the tensors beside them is safe.
_INERT_PACKAGES = frozenset(
    {
        "cellwhisperer",
        "composer",
        "jsonargparse",
        "lightning",
        "lightning_fabric",
        "llmfoundry",
        "mosaic_fm",
        "numpy",
        "omegaconf",
        "pytorch_lightning",
        "streaming",
        "tahoe_x1",
        "torch",
        "torchmetrics",
        "transformers",
    }
)
# torch.save writes pickle protocol 2, which spells the standard library as Python 2 did.
_PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_INERT_NAMES = frozenset(
    {
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("builtins", "complex"),
        ("builtins", "getattr"),  # how Python 3.11 pickles an enum member
        ("collections", "defaultdict"),
        ("collections", "Counter"),
        ("collections", "deque"),
        ("copyreg", "_reconstructor"),
        ("datetime", "datetime"),
        ("datetime", "timedelta"),
        ("pathlib", "PosixPath"),
    }
)


def open_tensors(path: Path, inside: tuple[str, ...] = ()) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint written by torch.save, by name; each is read when asked for, whole.

    inside: keys that lead to the state dict, e.g. ("state", "model") for a Composer checkpoint.
    Raises UnsafePickle when the pickle names something a checkpoint has no reason to, ModelError when the
    file is not a torch.save archive or holds no tensors there.
    """
    state, prefix = _read_archive(path)
    for key in inside:
        if not isinstance(state, Mapping) or key not in state:
            raise ModelError(f"{path}: no {'.'.join(inside)} in the checkpoint ({key!r} is missing)")
        state = state[key]
    if not isinstance(state, Mapping):
        raise ModelError(f"{path}: expected a dict of tensors, found {type(state).__name__}")
    tensors = {
        str(name): StoredTensor(found.shape, partial(_read, path, prefix, found))
        for name, found in state.items()
        if isinstance(found, _TensorOnDisk)
    }
    if not tensors:
        raise ModelError(f"{path}: the checkpoint holds no tensors at {'.'.join(inside) or 'its top level'}")
    return tensors


def open_checkpoint(path: Path) -> Any:
    """What a checkpoint written by torch.save holds: plain values, and an Inert for each of its objects.

    Raises as `open_tensors` does.
    """
    return _read_archive(path)[0]


def _read_archive(path: Path) -> tuple[Any, str]:
    """What torch.save was given, and where in the archive its tensors' numbers lie."""
    if not zipfile.is_zipfile(path):
        raise ModelError(
            f"{path}: not a torch.save archive (torch >= 1.6 writes zip files); re-save it "
            "with a newer torch or give model.safetensors"
        )
    with zipfile.ZipFile(path) as archive:
        listing = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if listing is None:
            raise ModelError(f"{path}: the archive holds no data.pkl; it was not written by torch.save")
        with archive.open(listing) as file:
            state = unpickled(_CheckpointUnpickler(file, path), path)
    return state, listing.removesuffix("data.pkl") + "data/"


@dataclass(frozen=True)
class _StorageOnDisk:
    dtype: torch.dtype | None  # None: a kind of storage this file does not read (quantised, complex)
    key: str
    n_elements: int


@dataclass(frozen=True)
class _TensorOnDisk:
    """Where a tensor's numbers lie; read only when it is wanted, so optimizer state costs nothing."""

    storage: _StorageOnDisk
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Inert:
    """Takes whatever a pickle does to an object and does nothing, but for keeping the attributes it gives."""

    attributes: Mapping[str, Any]

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        made = super().__new__(cls)
        made.attributes = {}
        return made

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, Mapping) else {}

    def __setitem__(self, _: Any, __: Any) -> None: ...
    def __call__(self, *_: Any, **__: Any) -> Inert:
        return self

    def append(self, _: Any) -> None: ...
    def extend(self, _: Any) -> None: ...
    def add(self, _: Any) -> None: ...


def _tensor(storage: Any, offset: int, shape: Any, stride: Any, *_: Any) -> _TensorOnDisk:
    if not isinstance(storage, _StorageOnDisk):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _TensorOnDisk(storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride)))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_CHECKPOINT_GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("_codecs", "encode"): encoded,
}


class _CheckpointUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        module = _PYTHON_2_MODULES.get(module, module)
        if (module, name) in _CHECKPOINT_GLOBALS:
            return _CHECKPOINT_GLOBALS[module, name]
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        if module.split(".")[0] in _INERT_PACKAGES or (module, name) in _INERT_NAMES:
            return Inert
        raise refusal(self.path, module, name)

    def persistent_load(self, pid: Any) -> _StorageOnDisk:
        kind, dtype, key, _, n_elements = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown persistent object {kind!r}")
        known = dtype if isinstance(dtype, torch.dtype) else None
        return _StorageOnDisk(known, str(key), int(n_elements))


def _read(path: Path, prefix: str, tensor: _TensorOnDisk, at: tuple[slice, ...]) -> Tensor:
    storage = tensor.storage
    if storage.dtype is None:
        raise ModelError(f"a tensor of shape {tensor.shape} is stored in a number type not read here")
    with zipfile.ZipFile(path) as archive:
        raw = bytearray(archive.read(prefix + storage.key))
    if not raw:
        return torch.zeros(tensor.shape, dtype=storage.dtype)[at]
    flat = torch.frombuffer(raw, dtype=storage.dtype)
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
    if min(tensor.stride, default=1) < 0 or last >= len(flat):
        raise ModelError(f"a tensor of shape {tensor.shape} reaches beyond its storage ({len(flat)} numbers)")
    return flat.as_strided(tensor.shape, tensor.stride, tensor.offset)[at].clone()
