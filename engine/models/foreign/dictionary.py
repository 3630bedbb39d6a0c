"""A dictionary of genes that exists only as a pickle (Geneformer): strings and numbers, nothing else."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from engine.models.errors import ModelError
from engine.models.foreign.unpickling import encoded, refusal, unpickled


def load_dictionary(path: Path) -> dict[Any, Any]:
    """A pickled dict of strings and numbers (numpy scalars become Python numbers).

    Raises UnsafePickle when the pickle names anything else, ModelError when it is no dict or is damaged.
    """
    with path.open("rb") as file:
        found = unpickled(_DictionaryUnpickler(file, path), path)
    if not isinstance(found, dict):
        raise ModelError(f"{path}: expected a pickled dict, found {type(found).__name__}")
    return dict(found)


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


_DICTIONARY_GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "scalar"): _numpy_scalar,
    ("numpy._core.multiarray", "scalar"): _numpy_scalar,
    ("_codecs", "encode"): encoded,
}


class _DictionaryUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _DICTIONARY_GLOBALS:
            raise refusal(self.path, module, name)
        return _DICTIONARY_GLOBALS[module, name]
