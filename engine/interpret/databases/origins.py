"""Where a downloaded file came from: a small JSON file beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from storage import durable_files
from storage.errors import InputError

SUFFIX = ".origin.json"
# What goes into the dataset; keys are taken out before anything is written down.
KEPT = ("url", "final_url", "etag", "last_modified", "downloaded")


def origin_of(path: Path) -> dict[str, Any] | None:
    """url, final_url, etag, last_modified, downloaded of a file that `--download` fetched; None for others.

    Raises InputError when the file has another size than it was downloaded with.
    """
    origin = read_origin(path)
    if origin is None:
        return None
    if origin["size"] != path.stat().st_size:
        raise InputError(
            f"{path}: {path.stat().st_size:,} bytes, downloaded with {origin['size']:,}; it was changed "
            f"since. Download it again, or remove {path.name}{SUFFIX}."
        )
    return {name: origin[name] for name in KEPT}


def read_origin(path: Path) -> dict[str, Any] | None:
    beside = path.with_name(path.name + SUFFIX)
    if not beside.exists():
        return None
    origin: dict[str, Any] = json.loads(beside.read_text())
    return origin


def write_origin(path: Path, origin: dict[str, Any]) -> None:
    content = json.dumps(origin, indent=2).encode()
    durable_files.replace(path.with_name(path.name + SUFFIX), content)
