"""OMIM: genes whose mutations are known to cause a disorder.

`genemap2.txt` (a registered user's own copy; may not be passed on), else NCBI's open `mim2gene_medgen`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.interpret.databases.delimited import Format, Layout, read_rows
from engine.interpret.databases.intake import Intake
from engine.interpret.databases.ontologies import Ontology, read_obo

GENEMAP = Format(
    "OMIM's genemap2",
    (
        Layout(
            "2025: Approved Gene Symbol",
            ("Approved Gene Symbol", "Entrez Gene ID", "Ensembl Gene ID", "Phenotypes"),
        ),
        Layout(
            "2018: Approved Symbol", ("Approved Symbol", "Entrez Gene ID", "Ensembl Gene ID", "Phenotypes")
        ),
    ),
)
MEDGEN = Format(
    "NCBI's mim2gene_medgen",
    (Layout("6 columns", ("MIM number", "GeneID", "type", "Source", "MedGenCUI", "Comment")),),
    repeats="few",
)
# `Name, 615349 (3), Autosomal recessive`; the number is absent where the gene's own entry is meant.
_PHENOTYPE = re.compile(r"(?P<name>.*?)(?:,\s*(?P<mim>\d{6}))?\s*\((?P<key>[1-4])\)(?:,.*)?")
MOLECULAR_BASIS_KNOWN = "3"


@dataclass(frozen=True)
class Rules:
    """susceptibility: keep `{...}` too, as evidence of its own. to_mondo: terms by Mondo, where its file is
    there and knows the number.
    """

    susceptibility: bool = True
    to_mondo: bool = True


def read(files: Mapping[str, list[Path]], rules: Rules, intake: Intake) -> None:
    mondo = read_obo(files["mondo"][0], prefix="MONDO:") if rules.to_mondo and "mondo" in files else None
    rows = (
        _genemap(files["genemap"][0], intake) if "genemap" in files else _medgen(files["medgen"][0], intake)
    )
    for gene, mim, name, evidence in rows:
        if evidence == "susceptibility" and not rules.susceptibility:
            intake.dropped["susceptibility"] += 1
            continue
        term = _term(mim, mondo)
        intake.keep(gene, term, evidence, raw_term=f"OMIM:{mim}")
        intake.name(term, name)


def _term(mim: str, mondo: Ontology | None) -> str:
    return (mondo.xrefs.get(f"OMIM:{mim}") if mondo else None) or f"OMIM:{mim}"


def _genemap(path: Path, intake: Intake) -> Iterator[tuple[tuple[str, ...], str, str, str]]:
    """(gene, phenotype MIM, name, evidence)."""
    for symbol, ncbi, ensembl, phenotypes in read_rows(path, GENEMAP, intake):
        if not symbol:
            intake.dropped["no approved symbol"] += 1
            continue
        gene = (ensembl, f"NCBI:{ncbi}" if ncbi else "", symbol)
        for phenotype in filter(None, (part.strip() for part in phenotypes.split(";"))):
            found = _PHENOTYPE.fullmatch(phenotype)
            reason = _reason(phenotype, found)
            if reason or found is None:
                intake.dropped[reason] += 1
                continue
            kind = "susceptibility" if found["name"].startswith("{") else "molecular basis known"
            yield gene, found["mim"], found["name"].strip("{}"), kind
    for line in intake.comments:
        if line.startswith("# Generated:"):
            intake.release = line.partition(":")[2].strip()


def _reason(phenotype: str, found: re.Match[str] | None) -> str:
    """Why a phenotype does not count; "" when it does."""
    if found is None:
        return "phenotype not understood"
    name = found["name"].lstrip("{")
    if found["key"] != MOLECULAR_BASIS_KNOWN:
        return f"key ({found['key']})"
    if name.startswith("?"):
        return "provisional"
    if name.startswith("["):
        return "not a disease"
    return "" if found["mim"] else "no number of its own"


def _medgen(path: Path, intake: Intake) -> Iterator[tuple[tuple[str, ...], str, str, str]]:
    for mim, ncbi, kind, _, _, comment in read_rows(path, MEDGEN, intake):
        remarks = {part.strip() for part in re.split("[;,]", comment)}
        if kind != "phenotype" or ncbi in ("", "-"):
            intake.dropped["entry of a gene, or without one"] += 1
        elif wrong := remarks & {"nondisease", "question", "QTL"}:
            intake.dropped[f"comment {min(wrong)}"] += 1
        else:
            known = "susceptibility" if "susceptibility" in remarks else "phenotype"
            yield (f"NCBI:{ncbi}",), mim, "", known
