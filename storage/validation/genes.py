"""Rules about genes: ids there and unique, species, and what a model's vocabulary knows of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from storage.gene_tables import GeneTable
from storage.genes import GeneReport, Genes, find_id_column, resolve
from storage.validation.findings import Finding

_ID_FIX = (
    "Give --gene-id-key COLUMN (or `index`) to use any column as ids as it is, or --genes TABLE with "
    "symbols and Ensembl ids."
)
# Ensembl's prefixes of the species that turn up in single-cell data.
_SPECIES = {
    "ENSG": "human",
    "ENSMUSG": "mouse",
    "ENSRNOG": "rat",
    "ENSMMUG": "rhesus macaque",
    "ENSMFAG": "crab-eating macaque",
    "ENSDARG": "zebrafish",
    "ENSSSCG": "pig",
    "ENSGALG": "chicken",
    "ENSPTRG": "chimpanzee",
    "ENSOCUG": "rabbit",
}
# Human symbols are upper case (C1orf112 apart), mouse and rat symbols capitalised: Actb, Gm1992,
# 0610009B22Rik.
_RODENT_SYMBOL = re.compile(r"[A-Z][a-z]+[a-z0-9\-]*|\d{7}[A-Z]\d\dRik")


@dataclass(frozen=True)
class GeneChoices:
    """How genes are to be identified (the flags of `ingest`)."""

    gene_id_key: str = "auto"
    """A column of var, `index`, or `auto`: the column or index that holds Ensembl ids."""
    duplicate_genes: str = "auto"
    """`refuse`, `sum`, or `auto`: refuse repeated ids in a complete id column, sum otherwise."""
    table: GeneTable | None = None


def identify_genes(var: pd.DataFrame, choices: GeneChoices) -> tuple[Genes | None, list[Finding]]:
    """The genes of a file and what is to be said about them; None with an error when there are no usable
    ids.
    """
    if len(var) == 0:
        return None, [Finding("error", "zero-genes", "var", 0, "the file has no genes", "Export it again.")]
    key = choices.gene_id_key
    if key == "auto":
        id_column = find_id_column(var)
        if id_column is None and choices.table is None:
            return None, [_no_gene_ids(var)]
    elif key != "index" and key not in var.columns:
        message = f"no column {key!r}; var has {[str(name) for name in var.columns]} and its index"
        return None, [Finding("error", "no-gene-ids", "var", 0, message, "Correct --gene-id-key.")]
    else:
        id_column = key
    genes = resolve(var, id_column, choices.table)
    return genes, [*_id_findings(genes.report, choices), *species_findings(list(genes.var.index))]


def _no_gene_ids(var: pd.DataFrame) -> Finding:
    examples = ", ".join(str(name) for name in var.index[:3])
    columns = [str(name) for name in var.columns]
    message = f"Ensembl ids are in no column of {columns} and not in the index ({examples}, ...)"
    return Finding("error", "no-gene-ids", "var", len(var), message, _ID_FIX)


def _id_findings(report: GeneReport, choices: GeneChoices) -> list[Finding]:
    where = "var index" if report.id_column in (None, "index") else f"var[{report.id_column!r}]"
    found = []
    if report.n_missing == report.n_columns or (choices.table and report.n_ensembl == 0):
        message = "not one gene has an id" + (" through the table" if choices.table else "")
        found.append(Finding("error", "no-gene-ids", where, report.n_columns, message, _ID_FIX))
    elif report.n_missing:
        message = f"{report.n_missing:,} of {report.n_columns:,} genes have no id and keep their own name"
        fix = "Models skip them. --genes TABLE fills in ids by symbol, previous symbol and alias."
        found.append(Finding("warning", "missing-gene-ids", where, report.n_missing, message, fix))
    unmatched = report.by_table.get("unmatched", 0) + report.by_table.get("ambiguous", 0)
    if unmatched:
        examples = ", ".join(report.unmatched_examples)
        message = f"{unmatched:,} names are not in the table or stand for several genes ({examples})"
        found.append(Finding("warning", "unmatched-genes", where, unmatched, message))
    if report.n_merged:
        found.append(_duplicates(report, choices, where))
    return found


def _duplicates(report: GeneReport, choices: GeneChoices, where: str) -> Finding:
    """A repeated id in a complete column is a broken key; in one derived from symbols it is two names of
    a gene.
    """
    examples = ", ".join(report.merged_examples)
    complete = report.n_missing == 0 and choices.table is None
    broken = choices.duplicate_genes == "auto" and complete and report.n_exact_duplicates > 0
    if choices.duplicate_genes == "refuse" or broken:
        message = f"{report.n_merged:,} ids occur more than once ({examples})"
        fix = "Make them unique, or add --duplicate-genes sum to add their counts."
        return Finding("error", "duplicate-gene-ids", where, report.n_merged, message, fix)
    message = f"{report.n_merged:,} columns are another column's gene and their counts are added ({examples})"
    return Finding("info", "merged-genes", where, report.n_merged, message)


def species_findings(ids: Sequence[str]) -> list[Finding]:
    """A warning when most ids are not of human genes, with the species the prefix or the spelling says."""
    prefixes = Counter(
        found.group() for name in ids if (found := re.match(r"ENS[A-Z]*G(?=\d)|ENSGR(?=\d)", name))
    )
    human = prefixes["ENSG"] + prefixes["ENSGR"]
    if prefixes:
        others = [
            (prefix, count) for prefix, count in prefixes.most_common() if prefix not in ("ENSG", "ENSGR")
        ]
        n_other = sum(count for _, count in others)
        if n_other <= human:
            return []
        species = _SPECIES.get(others[0][0], others[0][0])
    else:
        n_other = sum(bool(_RODENT_SYMBOL.fullmatch(name)) for name in ids)
        if n_other <= len(ids) / 2:
            return []
        species = "mouse or rat"
    message = f"{n_other:,} of {len(ids):,} ids are of {species} genes, not human ones"
    fix = "Human models will know none of them; translate to human orthologues first."
    return [Finding("warning", "non-human", "gene ids", n_other, message, fix)]


def vocabulary_findings(
    genes: Genes,
    column_sums: npt.NDArray[np.float64],
    vocabulary: Collection[str],
    least: float,
) -> tuple[str, list[Finding]]:
    """(report line, findings): the share of genes and of counts that a model's vocabulary knows.

    The threshold `least` applies to counts, not columns: a full annotation has three times the genes of a
    protein-coding vocabulary, but few of the counts lie outside it. `column_sums` are counts of a sample
    [n_columns].
    """
    known = genes.var.index.isin(list(vocabulary))
    of_counts = known[genes.of_column.clip(0)] & (genes.of_column >= 0)
    total = float(column_sums.sum())
    share = float(column_sums[of_counts].sum()) / total if total else float(known.mean())
    n_known = int(known.sum())
    line = f"{n_known:,} of {len(known):,} genes in the vocabulary, {share:.0%} of the counts"
    if n_known and share >= least:
        return line, []
    missing = len(known) - n_known
    message = f"the model knows {line}; at least {least:.0%} of the counts are needed"
    fix = "Check species and gene ids (--gene-id-key, --genes), or choose a model trained on these genes."
    return line, [Finding("error", "low-vocabulary-match", "gene ids", missing, message, fix)]
