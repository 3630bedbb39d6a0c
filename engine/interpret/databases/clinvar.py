"""ClinVar: genes with variants that several submitters call pathogenic for a condition.

`variant_summary.txt` (43 columns since 2024, 34 before) or the VCF. Germline classifications only: those of
tumours are columns of their own. A row is an allele on one assembly.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.interpret.databases.delimited import Format, Layout, read_rows
from engine.interpret.databases.intake import Intake
from storage.errors import InputError

_WANTED = (
    "AlleleID",
    "GeneSymbol",
    "HGNC_ID",
    "ClinicalSignificance",
    "ReviewStatus",
    "PhenotypeIDS",
    "PhenotypeList",
    "Assembly",
)
SUMMARY = Format(
    "ClinVar's variant_summary",
    (
        Layout("43 columns (2024-)", (*_WANTED, "SomaticClinicalImpact")),
        Layout("34 columns (until 2024)", (*_WANTED, "")),
    ),
    # An allele in the pseudoautosomal regions has rows on X and Y.
    repeats="few",
)
VCF = Format("ClinVar's VCF", (Layout("VCF 4", ("ID", "INFO")),), comment="##")

_STARS = {
    "practice guideline": 4,
    "reviewed by expert panel": 3,
    "criteria provided, multiple submitters, no conflicts": 2,
    "criteria provided, single submitter": 1,
    "criteria provided, conflicting classifications": 1,
    "criteria provided, conflicting interpretations": 1,
}
# Whole words between `/` and `;`: "Conflicting classifications of pathogenicity" is none of them.
_PATHOGENIC = {
    "Pathogenic",
    "Likely pathogenic",
    "Pathogenic, low penetrance",
    "Likely pathogenic, low penetrance",
}
_NO_CONDITION = re.compile(r"not provided|not specified|see cases|\d+ conditions|-|\.|", re.IGNORECASE)
# In the order of preference; how the id begins in the file -> how it begins here.
_VOCABULARIES = {"MONDO:MONDO:": "MONDO:", "OMIM:": "OMIM:", "Orphanet:": "ORPHA:", "MedGen:": "MedGen:"}


@dataclass(frozen=True)
class Rules:
    """stars: least review status. variants: least number of different alleles of a gene and condition.
    genes: a variant over more genes (a deletion of half a chromosome arm) says nothing about one of them.
    """

    stars: int = 2
    variants: int = 2
    genes: int = 5
    assembly: str = "GRCh38"


def read(files: Mapping[str, list[Path]], rules: Rules, intake: Intake) -> None:
    if "summary" in files:
        variants = _summary(files["summary"][0], rules, intake)
    else:
        variants = _vcf(files["vcf"][0], intake)
    alleles: dict[tuple[tuple[str, ...], str], set[str]] = defaultdict(set)
    best: dict[tuple[tuple[str, ...], str], int] = {}
    for allele, genes, significance, status, ids, names in variants:
        stars = _STARS.get(status, 0)
        for reason, wrong in (
            ("not pathogenic", not _PATHOGENIC & {part.strip() for part in re.split("[/;]", significance)}),
            (f"fewer than {rules.stars} stars", stars < rules.stars),
            (f"over more than {rules.genes} genes, or none", not 0 < len(genes) <= rules.genes),
        ):
            if wrong:
                intake.dropped[reason] += 1
                break
        else:
            for term, name in _conditions(ids, names, intake):
                intake.name(term, name)
                for gene in genes:
                    alleles[gene, term].add(allele)
                    best[gene, term] = max(stars, best.get((gene, term), 0))
    for (gene, term), found in alleles.items():
        if len(found) < rules.variants:
            intake.dropped[f"pair with fewer than {rules.variants} variants"] += 1
            continue
        intake.keep(gene, term, f"{best[gene, term]} stars", float(len(found)))


_Variant = tuple[str, list[tuple[str, ...]], str, str, str, str]


def _summary(path: Path, rules: Rules, intake: Intake) -> Iterator[_Variant]:
    """Names of the genes are (HGNC id, symbol) when there is one gene, else symbols."""
    for allele, symbols, hgnc, significance, status, ids, names, assembly, _ in read_rows(
        path, SUMMARY, intake
    ):
        if assembly != rules.assembly:
            intake.dropped[f"assembly other than {rules.assembly}"] += 1
            continue
        genes = [] if symbols.startswith("subset of ") else _split(symbols)
        one = len(genes) == 1
        yield (
            allele,
            [(hgnc, genes[0])] if one else [(gene,) for gene in genes],
            significance,
            status,
            ids,
            names,
        )


def _vcf(path: Path, intake: Intake) -> Iterator[_Variant]:
    seen = False
    for allele, info in read_rows(path, VCF, intake):
        fields = dict(field.partition("=")[::2] for field in info.split(";"))
        seen = seen or "CLNSIG" in fields
        symbols = [pair.partition(":")[0] for pair in fields.get("GENEINFO", "").split("|")]
        yield (
            allele,
            [(symbol,) for symbol in symbols if symbol],
            _words(fields.get("CLNSIG", "")).replace("|", ";"),
            _words(fields.get("CLNREVSTAT", "")),
            fields.get("CLNDISDB", ""),
            _words(fields.get("CLNDN", "")),
        )
    if not seen:
        raise InputError(f"{path}: no variant has CLNSIG in its INFO column; this is not ClinVar's VCF.")
    for line in intake.comments:
        if line.startswith("##fileDate="):
            intake.release = line.partition("=")[2]


def _words(text: str) -> str:
    return text.replace("_", " ")


def _split(symbols: str) -> list[str]:
    return [symbol.strip() for symbol in symbols.split(";") if symbol.strip() not in ("", "-")]


def _conditions(ids: str, names: str, intake: Intake) -> Iterator[tuple[str, str]]:
    """(term, name) of each condition. `|` and `;` separate conditions, in both columns alike; `,` the ids of
    one.
    """
    slots, named = ids.split("|"), names.split("|")
    for number, slot in enumerate(slots):
        inner = named[number].split(";") if number < len(named) else [""]
        for place, written in enumerate(slot.split(";")):
            name = inner[place].strip() if place < len(inner) else ""
            if _NO_CONDITION.fullmatch(name) and (name or _NO_CONDITION.fullmatch(written.strip())):
                intake.dropped["condition not named"] += 1
            elif term := _preferred(written):
                yield term, name
            else:
                intake.dropped["condition without an id"] += 1


def _preferred(written: str) -> str:
    found = [each.strip() for each in written.split(",")]
    for start, ours in _VOCABULARIES.items():
        for each in found:
            if each.startswith(start):
                return ours + each.removeprefix(start)
    return ""
