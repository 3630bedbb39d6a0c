"""`train-sae --sweep FILE.yaml`: which autoencoders a file asks for, by name.

    - {arch: [topk, batchtopk], width: [4096, 16384], k: 32, seed: [0, 1, 2]}    # twelve
    - {name: small, arch: gated, width: 1024, sparsity_coefficient: 3}

What a mapping does not say is as on the command line. A list stands for one autoencoder for each value.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import yaml

from storage.errors import InputError

Flags = TypeVar("Flags", bound=Any)
"""`jobs.train_sae.Options`."""

# Key -> the flag it stands for, and what a value may be.
KEYS: dict[str, tuple[str, tuple[type, ...]]] = {
    "arch": ("arch", (str,)),
    "width": ("width", (int,)),
    "k": ("k", (int,)),
    "hook": ("hook", (str,)),
    "seed": ("init_seed", (int,)),
    "lr": ("lr", (int, float)),
    "anneal": ("anneal", (int, float)),
    "sparsity_coefficient": ("sparsity_coefficient", (int, float)),
    "sparsity_warmup": ("sparsity_warmup", (int, float)),
    "aux_coefficient": ("aux_coefficient", (int, float)),
    "dead_tokens": ("dead_tokens", (int,)),
    "matryoshka_widths": ("matryoshka_widths", (str,)),
    "outlier_norm": ("outlier_norm", (int, float)),
    "gene_residual": ("gene_residual", (bool,)),
}
# Of architectures that k means nothing to.
WITHOUT_K = ("gated", "standard")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# What training writes beside the directories.
RESERVED = ("checkpoints", "tensorboard")


def members_of(options: Flags) -> list[tuple[str, Flags]]:
    """Name and flags of each autoencoder in the file of --sweep. Raises InputError, naming file and entry."""
    rows = [
        row
        for number, entry in enumerate(_entries(options.sweep), 1)
        for row in _rows(options, number, entry)
    ]
    varying = [key for key in KEYS if len({getattr(flags, KEYS[key][0]) for _, flags in rows}) > 1]
    named = [(name or _name(flags, varying), flags) for name, flags in rows]
    seen: set[str] = set()
    for name, _ in named:
        if name in seen:
            raise InputError(
                f"--sweep {options.sweep}: two autoencoders are called {name}; give them a `name`."
            )
        seen.add(name)
    return named


def _entries(path: str) -> list[Any]:
    try:
        loaded = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise InputError(f"--sweep {path}: cannot be read ({error.strerror}).") from error
    except yaml.YAMLError as error:
        raise InputError(f"--sweep {path}: is not valid YAML: {error}") from error
    if not isinstance(loaded, list) or not loaded:
        raise InputError(
            f"--sweep {path}: expected a list of autoencoders, each a mapping like {{k: 32, width: 512}}; "
            f"found {type(loaded).__name__}."
        )
    return loaded


def _rows(options: Flags, number: int, entry: Any) -> list[tuple[str | None, Flags]]:
    where = f"--sweep {options.sweep}, entry {number}"
    if not isinstance(entry, Mapping):
        raise InputError(f"{where}: expected a mapping, found {type(entry).__name__}.")
    given = {str(key).replace("-", "_"): value for key, value in entry.items()}
    name = given.pop("name", None)
    unknown = sorted(set(given) - set(KEYS))
    if unknown:
        raise InputError(f"{where}: no such key: {', '.join(unknown)}. Keys here: name, {', '.join(KEYS)}.")
    choices = {key: value if isinstance(value, list) else [value] for key, value in given.items()}
    for key, values in choices.items():
        _require_types(where, key, values)
    combinations = list(product(*choices.values()))
    if name is not None and (not NAME.fullmatch(str(name)) or name in RESERVED or len(combinations) != 1):
        raise InputError(
            f"{where}: name {name!r}: names are for single autoencoders, of letters, digits, dots and "
            f"dashes, and not {' or '.join(RESERVED)}."
        )
    return [
        (name, replace(options, **{KEYS[key][0]: value for key, value in zip(choices, values, strict=True)}))
        for values in combinations
    ]


def _require_types(where: str, key: str, values: list[Any]) -> None:
    allowed = KEYS[key][1]
    if not values:
        raise InputError(f"{where}: {key} is an empty list; give at least one value.")
    for value in values:
        # A bool is an int to Python, not to whoever writes `k: yes`.
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            expected = " or ".join(kind.__name__ for kind in allowed)
            raise InputError(f"{where}: {key} is {value!r}; expected {expected}.")


def _name(flags: Flags, varying: list[str]) -> str:
    """Architecture and sizes, then what else differs between the autoencoders."""
    parts = [flags.arch, f"w{flags.width}"]
    if flags.arch not in WITHOUT_K:
        parts.append(f"k{flags.k}")
    for key in varying:
        value = getattr(flags, KEYS[key][0])
        if key not in ("arch", "width", "k") and value is not None:
            parts.append(str(value) if key == "hook" else f"{key}{value}")
    return "-".join(parts).replace(",", "_").replace("/", "_")
