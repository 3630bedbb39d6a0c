"""Reading other people's pickles without running them.

Two readers, one for each thing that only exists as a pickle: a dictionary of genes (Geneformer) and a PyTorch
checkpoint (Tahoe-x1's best-model.pt, CellWhisperer's, old pytorch_model.bin). Neither ever calls what a
pickle names: tensors and numpy scalars are rebuilt by code of this file from their bytes, known trainer
classes become inert objects, and any other name is refused.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from engine.models.errors import ModelError, UnsafePickle
from engine.models.weights import StoredTensor


def load_dictionary(path: Path) -> dict[Any, Any]:
    """A pickled dict of strings and numbers (numpy scalars become Python numbers).

    Raises UnsafePickle when the pickle names anything else, ModelError when it is no dict or is damaged.
    """
    with path.open("rb") as file:
        found = _unpickle(_DictionaryUnpickler(file, path), path)
    if not isinstance(found, dict):
        raise ModelError(f"{path}: expected a pickled dict, found {type(found).__name__}")
    return dict(found)


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
            state = _unpickle(_CheckpointUnpickler(file, path), path)
    return state, listing.removesuffix("data.pkl") + "data/"


def _unpickle(unpickler: pickle.Unpickler, path: Path) -> Any:
    try:
        return unpickler.load()
    except UnsafePickle:
        raise
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        IndexError,
        TypeError,
        ValueError,
        KeyError,
    ) as error:
        raise ModelError(f"{path}: the pickle is damaged or of a kind not read here ({error})") from error


def _refuse(path: Path, module: str, name: str) -> UnsafePickle:
    return UnsafePickle(
        f"{path}: the pickle asks to import {module}.{name}, which a file of this kind has no reason to do; "
        "nothing of it was run. Get the file from its original source, or give safetensors/JSON/parquet"
    )


# -- gene dictionaries -------------------------------------------------------------------------------------


class _Dtype:
    """Stands in for numpy.dtype(code): remembers the code and byte order the pickle gives."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        dtype = np.dtype(self.code)
        if dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"a numpy scalar of type {self.code!r} is not a number")
        return dtype.newbyteorder(">") if self.order == ">" else dtype


def _numpy_scalar(dtype: _Dtype, raw: bytes) -> int | float | bool:
    number: int | float | bool = np.frombuffer(raw, dtype.numpy(), count=1)[0].item()
    return number


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Protocol 2 pickles write bytes as _codecs.encode(text, "latin1")."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


_DICTIONARY_GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
    ("_codecs", "encode"): _encode,
}


class _DictionaryUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _DICTIONARY_GLOBALS:
            raise _refuse(self.path, module, name)
        return _DICTIONARY_GLOBALS[module, name]


# -- torch checkpoints -------------------------------------------------------------------------------------

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
    ("_codecs", "encode"): _encode,
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
        raise _refuse(self.path, module, name)

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
