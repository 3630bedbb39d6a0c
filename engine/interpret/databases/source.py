"""What a source is: its evidence, its licence, its files, its parser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.interpret.databases.intake import Intake

# Role of a file -> its paths (several only for datasets in parts).
Files = Mapping[str, list[Path]]

MENDELIAN, PHENOTYPE, COMMON, MIXED, NETWORK, PATHWAY = (
    "Mendelian disease",
    "phenotype",
    "common-trait",
    "disease",
    "network",
    "pathway",
)


@dataclass(frozen=True)
class Role:
    """One file of a source. patterns: of its name, without `.gz` and `.zip`, the official name first. parts:
    a dataset of several files in one folder of that name. several: every file that fits, e.g. pages.
    """

    name: str
    patterns: tuple[str, ...]
    parts: bool = False
    several: bool = False


@dataclass(frozen=True)
class Source:
    """evidence_group: sources of one group draw on each other. needs: roles of which one must be there.
    redistribute: whether its rows may be shown to others. by_default: read when it is there, or only when it
    is named.
    """

    name: str
    title: str
    evidence_group: str
    licence: str
    licence_url: str
    attribution: str
    roles: tuple[Role, ...]
    needs: tuple[str, ...]
    read: Callable[[Files, Any, Intake], None]
    redistribute: bool = True
    by_default: bool = True
