"""KEGG pathways, from a user's own download of `link/hsa/pathway` and `list/pathway/hsa`.

Academic use only, and never passed on: read only when asked for by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.interpret.databases.files import open_lines
from engine.interpret.databases.intake import Intake
from storage.errors import InputError

_PATHWAY, _GENE = re.compile(r"(?:path:)?(hsa\d{5})"), re.compile(r"hsa:(\d+)")


@dataclass(frozen=True)
class Rules:
    """without: maps that are no pathways: KEGG's global and overview maps hold a large part of metabolism."""

    without: tuple[str, ...] = ("hsa01100", "hsa01200", "hsa01210", "hsa01212", "hsa01230", "hsa01232")


def read(files: Mapping[str, list[Path]], rules: Rules, intake: Intake) -> None:
    (links,) = files["links"]
    for number, fields in _pairs(links, intake):
        if _GENE.fullmatch(fields[0]):  # the same table is served in both orders
            fields.reverse()
        pathway, gene = _PATHWAY.fullmatch(fields[0]), _GENE.fullmatch(fields[1])
        if pathway is None or gene is None:
            raise InputError(
                f"{links}, line {number}: unknown layout of KEGG's links.\n  found: {' '.join(fields)[:99]}\n"
                "  known: path:hsa00010 <tab> hsa:10327"
            )
        if pathway[1] in rules.without:
            intake.dropped["global or overview map"] += 1
            continue
        intake.keep((f"NCBI:{gene[1]}",), pathway[1], "member", raw_term=fields[0])
        intake.name(pathway[1], "")
    for path in files.get("names", []):
        for number, (written, name) in _pairs(path, intake):
            found = _PATHWAY.fullmatch(written)
            if found is None:
                raise InputError(
                    f"{path}, line {number}: unknown layout of KEGG's list.\n  found: {written[:200]}\n"
                    "  known: hsa00010 <tab> Glycolysis / Gluconeogenesis - Homo sapiens (human)"
                )
            if found[1] in intake.terms:
                intake.name(found[1], name.removesuffix(" - Homo sapiens (human)"))


def _pairs(path: Path, intake: Intake) -> Iterator[tuple[int, list[str]]]:
    with open_lines(path) as lines:
        for number, line in enumerate(lines, 1):
            fields = line.split("\t")
            if len(fields) != 2:
                raise InputError(
                    f"{path}, line {number}: {len(fields)} fields with tabs between them, expected 2; "
                    f"found {line[:200]!r}"
                )
            intake.rows[path.name] += 1
            yield number, fields
    intake.layouts[path.name] = "REST table"
