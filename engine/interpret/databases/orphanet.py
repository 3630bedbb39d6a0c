"""Orphanet: genes that cause rare disorders, `en_product6.xml`.

Since 2020 a disorder has an `OrphaCode`, before that an `OrphaNumber`. The XML parser decodes the bytes:
older builds declare ISO-8859-1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from engine.interpret.databases.files import BLOCK, open_bytes
from engine.interpret.databases.intake import Intake
from storage.errors import InputError

CAUSAL = (
    "Disease-causing germline mutation(s) in",
    "Disease-causing germline mutation(s) (loss of function) in",
    "Disease-causing germline mutation(s) (gain of function) in",
    "Disease-causing somatic mutation(s) in",
    "Major susceptibility factor in",
)


@dataclass(frozen=True)
class Rules:
    """types: association types that count; others are candidates, biomarkers, modifiers and fusions."""

    types: tuple[str, ...] = CAUSAL
    statuses: tuple[str, ...] = ("Assessed",)


def read(files: Mapping[str, list[Path]], rules: Rules, intake: Intake) -> None:
    (path,) = files["genes"]
    for disorder in _disorders(path, intake):
        code = disorder.findtext("OrphaCode") or disorder.findtext("OrphaNumber")
        if not code:
            raise InputError(f"{path}: a disorder with neither OrphaCode nor OrphaNumber: unknown layout.")
        intake.layouts[path.name] = "OrphaCode" if disorder.find("OrphaCode") is not None else "OrphaNumber"
        term = f"ORPHA:{code.strip()}"
        for link in disorder.iterfind("DisorderGeneAssociationList/DisorderGeneAssociation"):
            intake.rows[path.name] += 1
            kind = (link.findtext("DisorderGeneAssociationType/Name") or "").strip()
            status = (link.findtext("DisorderGeneAssociationStatus/Name") or "").strip()
            if kind not in rules.types or status not in rules.statuses:
                intake.dropped[f"type {kind}" if kind not in rules.types else f"status {status}"] += 1
                continue
            intake.keep(_gene(link), term, kind)
            intake.name(term, disorder.findtext("Name") or "")


def _gene(link: ElementTree.Element) -> tuple[str, ...]:
    ids = {
        reference.findtext("Source"): (reference.findtext("Reference") or "").strip()
        for reference in link.iterfind("Gene/ExternalReferenceList/ExternalReference")
    }
    hgnc = f"HGNC:{ids['HGNC']}" if ids.get("HGNC") else ""
    return hgnc, ids.get("Ensembl", ""), (link.findtext("Gene/Symbol") or "").strip()


def _disorders(path: Path, intake: Intake) -> Iterator[ElementTree.Element]:
    """Each disorder once it is whole; what was read is let go."""
    parser: Any = ElementTree.XMLPullParser(["start", "end"])
    root: ElementTree.Element | None = None
    try:
        for block in _blocks(path):
            parser.feed(block)
            for event, element in parser.read_events():
                if root is None:
                    root = _root(path, element)
                    intake.release = element.get("date", "")[:10]
                elif event == "end" and element.tag == "Disorder":
                    yield element
                    element.clear()
        parser.close()
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: damaged or truncated XML ({error}); download it again.") from error
    if not intake.rows:
        raise InputError(f"{path}: no DisorderGeneAssociation in it; expected en_product6.xml.")


def _root(path: Path, element: ElementTree.Element) -> ElementTree.Element:
    if element.tag != "JDBOR":
        raise InputError(
            f"{path}: unknown layout, root element {element.tag}; known: JDBOR (en_product6.xml)."
        )
    return element


def _blocks(path: Path) -> Iterator[bytes]:
    """Raises InputError for a document type: Orphanet's have none, and entities can be made to explode."""
    with open_bytes(path, "*.xml") as stream:
        before = b""
        while block := stream.read(BLOCK):
            # A zero byte: UTF-16, in which a declaration would not be seen.
            if any(sign in before + block for sign in (b"<!DOCTYPE", b"<!ENTITY", b"\x00")):
                raise InputError(f"{path}: has a document type declaration; expected plain en_product6.xml.")
            yield block
            before = block[-16:]
