"""`--config FILE.yaml`: defaults for every flag, strict about unknown and repeated keys."""

from collections.abc import Hashable
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from storage.errors import InputError


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice instead of keeping the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise InputError(
                    f"{self.name}, line {key_node.start_mark.line + 1}: key {key!r} is given twice."
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: str, flag: str = "--config") -> dict[str, Any]:
    """One mapping of name (dashes or underscores) -> value. flag: which named the file, for messages."""
    try:
        with Path(path).open() as stream:
            loaded = yaml.load(stream, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader subclass
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot be read ({error.strerror}).") from error
    except yaml.YAMLError as error:
        raise InputError(f"{flag} {path}: is not valid YAML: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise InputError(
            f"{flag} {path}: expected a mapping of names to values, found {type(loaded).__name__}."
        )
    return {str(key).replace("-", "_"): value for key, value in loaded.items()}


def _path_of_config(argv: list[str]) -> str | None:
    for position, argument in enumerate(argv):
        if argument == "--config" and position + 1 < len(argv):
            return argv[position + 1]
        if argument.startswith("--config="):
            return argument.partition("=")[2]
    return None


def _is_given(flag: str, argv: list[str]) -> bool:
    negated = "--no-" + flag[2:]
    return any(argument in (flag, negated) or argument.startswith(flag + "=") for argument in argv)


def _as_arguments(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else "--no-" + flag[2:]]
    if isinstance(value, list):
        return [flag, *map(str, value)]
    return [flag, str(value)]


def arguments_from_yaml(argv: list[str], options_type: type) -> list[str]:
    """`argv` with the flags of its `--config` file added where the command line does not give them.

    A key that is no flag of the job is an InputError. Positional arguments (fields whose metadata or
    annotation marks them so) may be given as the key of the field and are placed first.
    """
    path = _path_of_config(argv)
    if path is None:
        return argv
    values = read_yaml(path)
    # A flag named like a Python keyword (`--from`) has a field with an underscore behind it.
    known = {field.name.rstrip("_"): field for field in fields(options_type)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(
            f"--config {path}: no such flag: {', '.join(unknown)}. Flags here: {', '.join(sorted(known))}."
        )
    added: list[str] = []
    positional: list[str] = []
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        if value is None or name == "config" or _is_given(flag, argv):
            continue
        if "Positional" in str(known[name].type):
            positional += list(map(str, value)) if isinstance(value, list) else [str(value)]
        else:
            added += _as_arguments(flag, value)
    has_positional = bool(argv) and not argv[0].startswith("-")
    return (argv if has_positional else positional + argv) + added
