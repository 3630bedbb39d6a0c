"""Gene sets in GMT: a line is a name, a description and genes, with tabs between them.

As MSigDB writes it (the description is a link), Enrichr (the description is empty, genes may carry a weight:
`GENE,1.0`) and Reactome (the second field is the id of the pathway: names repeat, ids do not).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from engine.interpret.databases.files import open_lines
from engine.interpret.databases.intake import Intake
from storage.errors import InputError

_REACTOME = re.compile(r"R-[A-Z]{3}-\d+")
_WEIGHT = re.compile(r",-?\d+(\.\d+)?([eE]-?\d+)?$")


# `h.all.v7.0.symbols`, `c5.go.bp.v2025.1.Hs.symbols`
_RELEASE = re.compile(r"\.(v\d+(\.\d+)*)\b")


@dataclass(frozen=True)
class Rules:
    """Of gene sets there is nothing to decide."""


class GeneSet(NamedTuple):
    """One line: `term_id` is unique in the file, `genes` are without repeats and weights."""

    term_id: str
    name: str
    description: str
    genes: list[str]


def read_gmt(path: Path | str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(terms, associations) of a GMT file, plain, gzip or zip; needs no dataset and no gene table.

    terms: term_id, name, parents (empty lists), group (`pathway`), as of `Databases.terms`. associations:
    gene, term_id, source (`gmt-<name of the file>`), evidence, score (NaN), raw_term, release. Raises
    InputError with the line for anything that is not GMT, and for a set that occurs twice.
    """
    sets = list(gene_sets(Path(path)))
    source = source_name(Path(path))
    terms = pd.DataFrame({"term_id": [s.term_id for s in sets], "name": [s.name for s in sets]})
    terms["parents"] = [[] for _ in sets]
    terms["group"] = "pathway"
    pairs = [(gene, each.term_id, each.name) for each in sets for gene in each.genes]
    associations = pd.DataFrame(pairs, columns=["gene", "term_id", "raw_term"])
    associations.insert(2, "source", source)
    associations.insert(3, "evidence", "member")
    associations.insert(4, "score", float("nan"))
    return terms, associations.assign(release="")


def read(files: Mapping[str, list[Path]], rules: Rules, intake: Intake) -> None:
    """One GMT file as a source of its own."""
    (path,) = files["sets"]
    version = _RELEASE.search(path.name)
    intake.release = version[1] if version else ""
    intake.layouts[path.name] = "GMT"
    for each in gene_sets(path):
        intake.rows[path.name] += 1
        intake.name(each.term_id, each.name)
        for gene in each.genes:
            intake.keep((gene,), each.term_id, "member", raw_term=each.name)


def source_name(path: Path) -> str:
    """`h.all.v7.0.symbols.gmt` -> `gmt-h.all.v7.0.symbols`."""
    stem = re.sub(r"(\.gmt)?(\.gz|\.zip)?$", "", path.name, flags=re.IGNORECASE)
    return "gmt-" + re.sub(r"[^A-Za-z0-9._-]+", "-", stem)


def gene_sets(path: Path) -> Iterator[GeneSet]:
    """The sets in file order. Raises InputError with the line."""
    seen: dict[str, int] = {}
    with open_lines(path, "*.gmt") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            each = _gene_set(line, f"{path}, line {number}")
            if each.term_id in seen:
                raise InputError(
                    f"{path}, lines {seen[each.term_id]} and {number}: the set {each.term_id!r} occurs "
                    "twice; remove one of them."
                )
            seen[each.term_id] = number
            yield each
    if not seen:
        raise InputError(
            f"{path}: no gene set in it; expected name, description and genes with tabs between."
        )


def _gene_set(line: str, where: str) -> GeneSet:
    fields = line.split("\t")
    if len(fields) < 3 or not fields[0].strip():
        raise InputError(
            f"{where}: {len(fields)} fields with tabs between them, {fields[0][:60]!r} first; a GMT line is "
            "name, description and at least one gene."
        )
    name, description = fields[0].strip(), fields[1].strip()
    genes = [_WEIGHT.sub("", field.strip()) for field in fields[2:]]
    if any(len(gene) > 100 for gene in genes):
        raise InputError(f"{where}: a gene name of more than 100 characters; the separator is not a tab.")
    term_id = description if _REACTOME.fullmatch(description) else name
    return GeneSet(term_id, name, description, list(dict.fromkeys(filter(None, genes))))
