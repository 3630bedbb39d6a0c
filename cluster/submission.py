"""One submission: which jobs, on how many machines of which size, and what may happen to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from storage.errors import InputError

# KubeRay appends suffixes of up to 16 characters to a name that Kubernetes limits to 63.
LONGEST_NAME = 47
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Machine:
    """Of each node. memory_gib: GiB."""

    cpus: int
    gpus: int
    memory_gib: int

    def __post_init__(self) -> None:
        for flag, found, least in (
            ("cpus", self.cpus, 1),
            ("gpus", self.gpus, 0),
            ("memory", self.memory_gib, 1),
        ):
            if found < least:
                raise InputError(f"--{flag} {found}: give at least {least}.")


@dataclass(frozen=True)
class Submission:
    """name: a DNS label. commands: each a job and its flags, `("cache", "--cells", ...)`; several are a
    sweep, none is a cluster to work on. serving: args of the served application, in place of a command.
    nodes: of `machine`; reader_nodes: beside them, of the same CPUs and memory without GPUs. spot: machines
    may be taken away. retries: how often a job that failed or lost its machines starts again, to resume.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    machine: Machine
    serving: Mapping[str, Any] | None = None
    nodes: int = 1
    reader_nodes: int = 0
    spot: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    queue: str | None = None
    time_limit_seconds: int | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", self.name) or len(self.name) > LONGEST_NAME:
            raise InputError(
                f"--name {self.name!r}: give at most {LONGEST_NAME} lower-case letters, digits and dashes, "
                "a letter first."
            )
        for flag, found, least in (
            ("nodes", self.nodes, 1),
            ("reader-nodes", self.reader_nodes, 0),
            ("retries", self.retries, 0),
        ):
            if found < least:
                raise InputError(f"--{flag} {found}: give at least {least}.")
        for command in self.commands:
            if self.retries and "--overwrite" in command:
                raise InputError(
                    f"{command[0]} --overwrite with --retries {self.retries}: every new start would "
                    "remove what the one before had done. Leave out --overwrite and give a fresh --output, "
                    "or --retries 0."
                )


def module_command(command: tuple[str, ...]) -> list[str]:
    """`("train-sae", "--k", "32")` -> the process that is the job, on any machine with the code."""
    return ["python", "-m", "jobs." + command[0].replace("-", "_"), *command[1:]]


def seconds(text: str) -> int:
    """`"90m"`, `"4h"`, `"1d12h"` -> seconds."""
    parts = re.findall(r"(\d+)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InputError(f"--time-limit {text!r}: write it like 90m, 4h or 1d12h.")
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def swept(command: tuple[str, ...], sweep: Mapping[str, tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """One command for each combination of values: `{name}` in a flag becomes the value.

    Raises InputError for names that no flag holds and when two combinations would write to one --output.
    """
    commands: list[tuple[str, ...]] = [command]
    for name, values in sweep.items():
        mark = "{" + name + "}"
        if not any(mark in word for word in command):
            raise InputError(f"--sweep {name}=...: no flag of the job holds {mark}.")
        commands = [tuple(word.replace(mark, value) for word in one) for one in commands for value in values]
    outputs = [one[one.index("--output") + 1] for one in commands if "--output" in one[:-1]]
    if len(set(outputs)) < len(outputs):
        names = "-".join("{" + name + "}" for name in sweep)
        raise InputError(
            f"--sweep: several jobs would write to {outputs[0]}; put the names of the sweep into --output, "
            f"e.g. --output sae-{names}."
        )
    return tuple(commands)
