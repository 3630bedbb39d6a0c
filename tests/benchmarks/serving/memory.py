"""Memory of all processes that this one has started: a whole server, with its Ray."""

from __future__ import annotations

import os
from pathlib import Path


def megabytes() -> float:
    """Proportional set sizes of all descendants: what several of them share is counted once."""
    return sum(map(_proportional, _descendants(os.getpid()))) / 1e3


def _descendants(pid: int) -> list[int]:
    try:
        lists = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        # It ended while it was looked at.
        return []
    children = [int(child) for children in lists for child in children.split()]
    return children + [one for child in children for one in _descendants(child)]


def _proportional(pid: int) -> int:
    """Kilobytes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
