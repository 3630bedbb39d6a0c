"""What both readers of pickles share: nothing a pickle names is called unless it is named here."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from engine.models.errors import ModelError, UnsafePickle


def unpickled(unpickler: pickle.Unpickler, path: Path) -> Any:
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


def refusal(path: Path, module: str, name: str) -> UnsafePickle:
    return UnsafePickle(
        f"{path}: the pickle asks to import {module}.{name}, which a file of this kind has no reason to do; "
        "nothing of it was run. Get the file from its original source, or give safetensors/JSON/parquet"
    )


def encoded(text: str, encoding: str = "latin1") -> bytes:
    """Protocol 2 pickles write bytes as _codecs.encode(text, "latin1")."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")
