"""GenCC: curated claims that a gene causes a disease, each with a classification.

The export of 2026 (`?format=new`, 31 columns, `sgc_id`) and the earlier one (30 columns, `uuid`), as CSV or
TSV; notes may hold line breaks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.interpret.databases.delimited import Format, Layout, read_rows
from engine.interpret.databases.intake import Intake

_WANTED = ("gene_curie", "gene_symbol", "disease_curie", "disease_title", "classification_title")
_RUN = "submitted_run_date"
_CSV = Format(
    "GenCC submissions",
    (
        Layout("31 columns (2026-)", ("sgc_id", *_WANTED, _RUN)),
        Layout("30 columns (until 2026)", ("uuid", *_WANTED, _RUN)),
    ),
    delimiter=",",
    quoted=True,
    comment="",
)
_CONTRADICTING = {"Disputed Evidence", "Refuted Evidence"}


@dataclass(frozen=True)
class Rules:
    """classifications: claims that count. without_conflicts: leave out pairs that another submitter disputes
    or refutes.
    """

    classifications: tuple[str, ...] = ("Definitive", "Strong", "Moderate")
    without_conflicts: bool = True


def format_of(path: Path) -> Format:
    """CSV or TSV, by the file's name."""
    return dataclasses.replace(_CSV, delimiter="\t") if ".tsv" in path.name else _CSV


def read(files: Mapping[str, list[Path]], rules: Rules, intake: Intake) -> None:
    (path,) = files["submissions"]
    disputed: set[tuple[str, str]] = set()
    for _, hgnc, symbol, disease, title, classification, run in read_rows(path, format_of(path), intake):
        intake.release = max(intake.release, run[:10])
        if classification in _CONTRADICTING:
            disputed.add((hgnc, disease))
        if classification not in rules.classifications:
            intake.dropped[f"classification {classification}"] += 1
            continue
        intake.keep((hgnc, symbol), disease, classification)
        intake.name(disease, title)
    for key in [key for key in intake.associations if (key.gene[0], key.term_id) in disputed]:
        intake.conflicts.append(
            f"{key.gene[-1]}, {key.term_id}: {key.evidence}, disputed or refuted by others"
        )
        if rules.without_conflicts:
            del intake.associations[key]
            intake.dropped["disputed or refuted by others"] += 1
