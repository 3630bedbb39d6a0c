"""Real excerpts of the databases, and what a parser reads of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.interpret.databases.intake import Intake
from engine.interpret.databases.registry import SOURCES


@pytest.fixture(scope="session")
def excerpts(shared: Path) -> Path:
    return shared / "golden" / "validation_db"


def take_in(source: str, files: dict[str, Path], rules: Any) -> Intake:
    """What a source's parser keeps of these files, by role."""
    read = next(each.read for each in SOURCES if each.name == source)
    intake = Intake()
    read({role: [path] for role, path in files.items()}, rules, intake)
    return intake


def pairs(intake: Intake) -> set[tuple[str, str]]:
    """(gene by its last name, term)."""
    return {(association.gene[-1], association.term_id) for association in intake.associations}
