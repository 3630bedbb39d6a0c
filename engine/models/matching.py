"""Which columns of a count matrix a model knows, and what to tell the person whose genes it does not know."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# An Ensembl gene id with its version: ENSG00000000003.15, ENSMUSG00000000001.5, ENSGR0000002586.
VERSIONED = re.compile(r"^(ENS[A-Z]*\d{6,})\.\d+$")
ENSEMBL = re.compile(r"^ENS([A-Z]*?)(G|GR)\d{6,}(\.\d+)?$")
SPECIES = {"": "human", "MUS": "mouse", "RNO": "rat", "DAR": "zebrafish", "MMU": "macaque", "SSC": "pig"}


def without_version(gene_id: str) -> str:
    """ENSG00000000003.15 -> ENSG00000000003; anything else unchanged (RP11-34P13.7 is a symbol)."""
    found = VERSIONED.match(gene_id)
    return found.group(1) if found else gene_id


@dataclass(frozen=True)
class GeneMatch:
    """How the columns of a count matrix map to a model's vocabulary.

    column_to_token: int32 [n_columns], token id of each column, -1 where the model does not know the gene.
    duplicates: columns that reach a token which an earlier column reached already.
    hint: what the ids look like when few of them match, else "".
    """

    column_to_token: npt.NDArray[np.int32]
    duplicates: int
    hint: str

    @property
    def n_columns(self) -> int:
        return len(self.column_to_token)

    @property
    def n_matched(self) -> int:
        """Columns whose gene is in the vocabulary."""
        return int((self.column_to_token >= 0).sum())

    @property
    def fraction(self) -> float:
        return self.n_matched / max(self.n_columns, 1)

    def report(self) -> str:
        """One line for a person."""
        lines = [f"{self.n_matched} of {self.n_columns} genes ({self.fraction:.0%}) are in the vocabulary"]
        if self.duplicates:
            lines.append(f"{self.duplicates} columns repeat a gene")
        if self.hint:
            lines.append(self.hint)
        return "; ".join(lines)


def gene_match(column_to_token: npt.NDArray[np.int32], gene_ids: Sequence[str]) -> GeneMatch:
    """The match with its duplicates counted and, when under half of the columns match, a hint why."""
    known = column_to_token[column_to_token >= 0]
    few = len(known) < 0.5 * len(column_to_token)
    return GeneMatch(column_to_token, len(known) - len(np.unique(known)), _hint(gene_ids) if few else "")


def _hint(gene_ids: Sequence[str]) -> str:
    sample = list(gene_ids[:: max(1, len(gene_ids) // 1000)])
    ensembl = [found for found in map(ENSEMBL.match, sample) if found]
    if len(ensembl) < 0.5 * len(sample):
        return "the ids do not look like Ensembl gene ids (symbols?): give the column that holds ENSG... ids"
    prefixes = [found.group(1) for found in ensembl]
    prefix = max(set(prefixes), key=prefixes.count)
    if prefix:
        return f"the ids are {SPECIES.get(prefix, 'ENS' + prefix)} genes: map them to human orthologues first"
    if sum(found.group(3) is not None for found in ensembl) > 0.5 * len(ensembl):
        return "the ids carry version suffixes (ENSG....15): strip them (`ingest` does)"
    return ""
