"""Mappings read from YAML -> frozen dataclasses, strict about keys and types."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from storage.errors import InputError

Settings = TypeVar("Settings")


def build(kind: type[Settings], found: object, where: str) -> Settings:
    """`kind`, a dataclass, from a mapping of its fields. Raises InputError that names the key, e.g.
    `site.yaml: kubernetes.volumes[0].clam: no such key (did you mean 'claim'?)`.
    """
    if not isinstance(found, Mapping):
        raise InputError(f"{where}: expected a mapping of keys to values, found {found!r}.")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in found:
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"keys here: {', '.join(known)}"
            raise InputError(f"{where}: {key}: no such key ({hint}).")
    hints = get_type_hints(kind)
    for name, field in known.items():
        if name not in found and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{where}: {name} is missing.")
    return kind(**{str(key): _value(hints[key], value, f"{where}: {key}") for key, value in found.items()})


def _value(hint: Any, found: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, found, where)
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if found is None:
            return None
        (hint,) = (kind for kind in inside if kind is not types.NoneType)
        return _value(hint, found, where)
    if origin is tuple:
        if not isinstance(found, list):
            raise InputError(f"{where}: expected a list, found {found!r}.")
        return tuple(_value(inside[0], entry, f"{where}[{place}]") for place, entry in enumerate(found))
    if origin in (dict, Mapping):
        if not isinstance(found, Mapping):
            raise InputError(f"{where}: expected a mapping, found {found!r}.")
        return {_text(key, where): _value(inside[1], value, f"{where}.{key}") for key, value in found.items()}
    # In Python True is an int; in a settings file it is a mistake.
    if not isinstance(found, hint) or (hint is int and isinstance(found, bool)):
        quote = " (put it in quotes)" if hint is str else ""
        raise InputError(f"{where}: expected {hint.__name__}, found {found!r}{quote}.")
    return found


def _text(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise InputError(f"{where}: the key {key!r} is no text (put it in quotes).")
    return key
