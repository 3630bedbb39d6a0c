"""Reactome: `ReactomePathways.gmt`, which has all levels, and which pathway lies in which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from engine.interpret.databases import gmt
from engine.interpret.databases.files import open_lines
from engine.interpret.databases.intake import Intake
from storage.errors import InputError


def read(files: Mapping[str, list[Path]], rules: gmt.Rules, intake: Intake) -> None:
    gmt.read(files, rules, intake)
    parents = _parents(files["hierarchy"][0], intake) if "hierarchy" in files else {}
    for term_id, term in intake.terms.items():
        known = tuple(sorted(parent for parent in parents.get(term_id, ()) if parent in intake.terms))
        intake.terms[term_id] = term._replace(parents=known)


def _parents(path: Path, intake: Intake) -> dict[str, set[str]]:
    """Pathway -> those that contain it."""
    found: dict[str, set[str]] = defaultdict(set)
    with open_lines(path) as lines:
        for number, line in enumerate(lines, 1):
            fields = line.split("\t")
            if len(fields) != 2 or not all(field.startswith("R-") for field in fields):
                raise InputError(
                    f"{path}, line {number}: unknown layout of Reactome's hierarchy.\n  found: {line[:200]}\n"
                    "  known: R-HSA-109581 <tab> R-HSA-109606"
                )
            intake.rows[path.name] += 1
            found[fields[1]].add(fields[0])
    intake.layouts[path.name] = "pairs"
    return found
