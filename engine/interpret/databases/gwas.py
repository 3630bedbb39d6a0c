"""GWAS Catalog: genes at variants associated with a trait at genome-wide significance.

The ontology-annotated export, 38 columns (v1.0.2 and later) or 36 (v1.0.1). MAPPED_GENE is `A` (in a gene),
`A, B` (in several), `A - B` (between two), and joined by `; ` or ` x ` for haplotypes and interactions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.interpret.databases.delimited import Format, Layout, read_rows
from engine.interpret.databases.intake import Intake

_WANTED = (
    "MAPPED_GENE",
    "UPSTREAM_GENE_DISTANCE",
    "DOWNSTREAM_GENE_DISTANCE",
    "PVALUE_MLOG",
    "MAPPED_TRAIT",
    "MAPPED_TRAIT_URI",
    "CHR_ID",
    "CHR_POS",
)
FORMAT = Format(
    "GWAS Catalog associations",
    (
        Layout("38 columns (v1.0.2-)", (*_WANTED, "STUDY ACCESSION")),
        Layout("36 columns (v1.0.1)", (*_WANTED, "")),
    ),
    comment="",
    # Two variants of one study may agree in every column the export has.
    repeats="few",
    member="*.tsv",
)
# 5e-8, the usual threshold for a million independent variants.
GENOME_WIDE = -math.log10(5e-8)
# The extended MHC on GRCh38: genes there look alike to a GWAS, whatever the immune trait.
_MHC = range(25_700_000, 33_500_000)


@dataclass(frozen=True)
class Rules:
    """mlog_p: smallest -log10 p. intergenic: what a variant between two genes says about them."""

    mlog_p: float = GENOME_WIDE
    intergenic: Literal["drop", "nearest", "both"] = "drop"


def read(files: Mapping[str, list[Path]], rules: Rules, intake: Intake) -> None:
    (path,) = files["associations"]
    for mapped, up, down, mlog, traits, uris, chromosome, place, _ in read_rows(path, FORMAT, intake):
        score = _number(mlog)
        if not score >= rules.mlog_p:
            intake.dropped["p above the threshold"] += 1
            continue
        terms = [uri.strip().rsplit("/", 1)[-1] for uri in uris.split(",") if uri.strip()]
        genes = list(_genes(mapped, _number(up), _number(down), rules.intergenic))
        if not terms or not genes:
            reason = "no trait" if not terms else "no gene, or between genes"
            intake.dropped[reason] += 1
        where = ", MHC" if chromosome == "6" and place.isdigit() and int(place) in _MHC else ""
        for term in terms:
            # Names may hold commas themselves: only those of a single trait can be told.
            intake.name(term, traits if len(terms) == 1 else "")
            for gene, how in genes:
                intake.keep((gene,), term, how + where, score, traits)


def _genes(mapped: str, up: float, down: float, intergenic: str) -> Iterator[tuple[str, str]]:
    """(symbol, `genic`, `nearest` or `flanking`)."""
    for part in re.split(r";| x |,", mapped):
        pair = [gene.strip() for gene in part.split(" - ")]
        if len(pair) != 2:
            yield from ((gene, "genic") for gene in pair if gene)
        elif intergenic == "both":
            yield from ((gene, "flanking") for gene in pair if gene)
        elif intergenic == "nearest" and not (math.isnan(up) and math.isnan(down)):
            yield (pair[0] if not up > down else pair[1]), "nearest"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
