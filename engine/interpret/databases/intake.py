"""What a parser takes in of one source: associations, terms, edges, and a count for every rule."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

NO_SCORE = math.nan


class Association(NamedTuple):
    """`gene`: what a source calls a gene, ids first (`HGNC:1100`, `ENSG...`, `NCBI:672`), symbol last."""

    gene: tuple[str, ...]
    term_id: str
    evidence: str


class Term(NamedTuple):
    name: str
    parents: tuple[str, ...]


@dataclass
class Intake:
    """Filled by the parser of one source. Memory grows with what is kept, not with what is read."""

    associations: dict[Association, tuple[float, str]] = field(default_factory=dict)
    """-> (score, the term as the source writes it)."""
    terms: dict[str, Term] = field(default_factory=dict)
    edges: pd.DataFrame | None = None
    """Networks only: gene_a, gene_b, score."""
    release: str = ""
    rows: Counter[str] = field(default_factory=Counter)
    """File name -> rows read."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Rule -> rows or parts of rows that it left out."""
    layouts: dict[str, str] = field(default_factory=dict)
    """File name -> which of the published layouts it has."""
    comments: list[str] = field(default_factory=list)
    """Lines above the header of the file read last."""
    conflicts: list[str] = field(default_factory=list)
    """Pairs that one submitter asserts and another disputes."""
    notes: list[str] = field(default_factory=list)
    """What a user of the tables should know; goes to stderr and into the dataset."""

    def keep(
        self,
        gene: Iterable[str],
        term_id: str,
        evidence: str,
        score: float = NO_SCORE,
        raw_term: str = "",
    ) -> None:
        """One association; of repeated ones the highest score stays."""
        names = tuple(name for name in gene if name and name != "-")
        if not names:
            self.dropped["no gene"] += 1
            return
        key = Association(names, term_id, evidence)
        known = self.associations.get(key)
        if known is None or score > known[0]:
            self.associations[key] = (score, raw_term or term_id)

    def name(self, term_id: str, name: str, parents: Iterable[str] = ()) -> None:
        """Name a term; the first name stays unless it was empty."""
        if term_id not in self.terms or not self.terms[term_id].name:
            self.terms[term_id] = Term(name.strip(), tuple(parents))
