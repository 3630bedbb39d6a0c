"""DisGeNET: scored gene-disease pairs from many sources. A user's own files only: newer releases need a key
and may not be passed on.

Tables of v7 (2020) and of 2015, and pages of the API of 2024 (`gda/summary`) kept as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.interpret.databases.delimited import Format, Layout, read_rows
from engine.interpret.databases.files import open_bytes
from engine.interpret.databases.intake import Intake
from storage.errors import InputError

_WANTED = ("geneId", "geneSymbol", "diseaseId", "diseaseName", "score", "source")
TABLE = Format(
    "DisGeNET's gene-disease table",
    (Layout("v7 (2020)", (*_WANTED, "diseaseType")), Layout("2015", (*_WANTED, ""))),
)
# Sources of v7 that DisGeNET calls curated; the others are animal models, text mining and inference.
_CURATED = {"CTD_human", "CGI", "CLINGEN", "GENOMICS_ENGLAND", "ORPHANET", "PSYGENET", "UNIPROT"}
_PAGE = ("geneNcbiID", "symbolOfGene", "diseaseUMLSCUI", "diseaseName", "score")
# A page has 100 rows; whatever is larger is not one.
_LARGEST_PAGE = 64 << 20


@dataclass(frozen=True)
class Rules:
    """score: least score. types: of diseases, where the layout has them. curated: by sources, likewise."""

    score: float = 0.3
    types: tuple[str, ...] = ("disease",)
    curated: bool = True


def read(files: Mapping[str, list[Path]], rules: Rules, intake: Intake) -> None:
    for path in files.get("table", []):
        for ncbi, symbol, disease, name, score, sources, kind in read_rows(path, TABLE, intake):
            curated = not kind or bool(_CURATED & set(re.split(r"[;,]\s*", sources)))
            if kind and kind not in rules.types:
                intake.dropped[f"type {kind}"] += 1
            elif rules.curated and not curated:
                intake.dropped["no curated source"] += 1
            else:
                _keep(ncbi, symbol, disease, name, _score(path, score), rules, intake)
    for path in files.get("pages", []):
        for ncbi, symbol, disease, name, score in _page(path, intake):
            _keep(ncbi, symbol, disease, name, _score(path, score), rules, intake)


def _keep(
    ncbi: str, symbol: str, disease: str, name: str, score: float, rules: Rules, intake: Intake
) -> None:
    if not score >= rules.score:
        intake.dropped[f"score below {rules.score}"] += 1
        return
    term = disease if disease.startswith("umls:") else f"umls:{disease}"
    intake.keep((f"NCBI:{ncbi}", symbol), term, "scored", score, disease)
    intake.name(term, name)


def _score(path: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{path}: score {text!r} is no number; download it again.") from None


def _page(path: Path, intake: Intake) -> Iterator[tuple[str, ...]]:
    with open_bytes(path, "*.json") as stream:
        text = stream.read(_LARGEST_PAGE)
    try:
        page = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: damaged or truncated JSON ({error}); download it again.") from error
    rows = page.get("payload") if isinstance(page, dict) else page
    if not isinstance(rows, list) or any(set(_PAGE) - set(row) for row in rows):
        found = ", ".join(page) if isinstance(page, dict) else type(page).__name__
        raise InputError(
            f"{path}: unknown layout of DisGeNET's pages.\n  found: {found}\n  known: payload, a list of "
            f"{', '.join(_PAGE)}"
        )
    intake.layouts[path.name] = "API of 2024"
    intake.rows[path.name] += len(rows)
    for row in rows:
        yield tuple(str(row[name]) for name in _PAGE)
