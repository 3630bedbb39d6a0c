"""Programs of the cluster that are asked things: sbatch, scontrol, kubectl."""

from __future__ import annotations

import subprocess

from storage.errors import InputError


def ask(program: str, *arguments: str, stdin: str | None = None) -> str:
    """What it prints. Raises InputError where it is not installed, RuntimeError with its own words where it
    refuses.
    """
    try:
        asked = subprocess.run(
            [program, *arguments], input=stdin, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{program} is not installed here: submit where it is, or print what would be "
            "submitted with --dry-run."
        ) from error
    if asked.returncode:
        raise RuntimeError(f"{program} {' '.join(arguments)}: {asked.stderr.strip() or asked.stdout.strip()}")
    return asked.stdout
