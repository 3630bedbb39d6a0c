"""GO: annotations of human genes (GAF 2), propagated over `is_a` and `part_of` by `go-basic.obo`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.interpret.databases.files import open_lines
from engine.interpret.databases.intake import Intake
from engine.interpret.databases.ontologies import read_obo
from storage.errors import InputError

_VERSIONS = ("2.0", "2.1", "2.2")  # the same 17 columns, in this order, by the specification
_COLUMNS = 17
_SYMBOL, _QUALIFIER, _TERM, _EVIDENCE, _ASPECT, _TAXON = 2, 3, 4, 6, 8, 12


@dataclass(frozen=True)
class Rules:
    """aspects: P process, F function, C component. without: evidence codes that do not count: ND says that
    nothing is known, IEP rests on expression, which would be circular here. propagate: to broader terms.
    """

    aspects: tuple[str, ...] = ("P",)
    without: tuple[str, ...] = ("ND", "IEP")
    propagate: bool = True


def read(files: Mapping[str, list[Path]], rules: Rules, intake: Intake) -> None:
    (path,) = files["annotations"]
    ontology = read_obo(files["ontology"][0], ("part_of",), prefix="GO:") if "ontology" in files else None
    if ontology is None:
        intake.notes.append("go: no go-basic.obo, so terms have no names or parents and are not propagated")
    for fields in _rows(path, intake):
        term, code = fields[_TERM], fields[_EVIDENCE]
        reason = _reason(fields, rules)
        if reason:
            intake.dropped[reason] += 1
            continue
        gene = (fields[_SYMBOL],)
        current = (ontology.resolve(term) or term) if ontology else term
        intake.keep(gene, current, code, raw_term=term)
        intake.name(current, "")
        if ontology and rules.propagate and current in ontology.names:
            for above in ontology.above(current) - {current}:
                intake.keep(gene, above, "propagated")
    if ontology is not None:
        ontology.name_terms(intake)


def _reason(fields: list[str], rules: Rules) -> str:
    """Why an annotation does not count; "" when it does."""
    if "NOT" in fields[_QUALIFIER].split("|"):
        return "qualifier NOT"
    if fields[_ASPECT] not in rules.aspects:
        return f"aspect {fields[_ASPECT]}"
    if fields[_EVIDENCE] in rules.without:
        return f"evidence {fields[_EVIDENCE]}"
    return "" if fields[_TAXON].split("|")[0] == "taxon:9606" else "not human"


def _rows(path: Path, intake: Intake) -> Iterator[list[str]]:
    version = ""
    with open_lines(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.startswith("!"):
                key, _, value = line[1:].partition(":")
                version = value.strip() if key == "gaf-version" else version
                if key in ("date-generated", "generated"):
                    intake.release = intake.release or value.strip()[:10]
                continue
            if version not in _VERSIONS:
                raise InputError(
                    f"{path}, line {number}: unknown layout of GO annotations.\n  header found: "
                    f"gaf-version {version or '(none)'!s}, then {line[:200]}\n  known: !gaf-version: "
                    f"{', '.join(_VERSIONS)}"
                )
            fields = line.split("\t")
            if len(fields) != _COLUMNS:
                raise InputError(
                    f"{path}, line {number}: {len(fields)} fields, GAF has {_COLUMNS}; the file is truncated "
                    "or its separator changed. Download it again."
                )
            intake.layouts[path.name] = f"GAF {version}"
            intake.rows[path.name] += 1
            yield fields
    if not intake.rows[path.name]:
        raise InputError(f"{path}: no annotation in it; download it again.")
