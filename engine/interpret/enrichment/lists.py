"""Gene lists and term sets on one background: names become columns, memberships sparse matrices.

Shape legend: F lists, T terms, G genes of the background.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse

from engine.interpret.runs import Float64, Int64

SMALLEST_TERM, LARGEST_TERM = 5, 500


@dataclass(frozen=True)
class Background:
    """The genes that could have entered a list, each once.

    expression_G: mean expression of each, NaN where it is not known; only the null model looks at it.
    """

    genes: tuple[str, ...]
    expression_G: Float64

    @classmethod
    def of(cls, genes: Iterable[str], expression: Iterable[float] | None = None) -> Background:
        """Repeated names count once, with their first expression; blanks are left out."""
        known: dict[str, float] = {}
        names = list(genes)
        for name, level in zip(names, [np.nan] * len(names) if expression is None else expression, strict=True):
            if name.strip():
                known.setdefault(name, float(level))
        return cls(tuple(known), np.fromiter(known.values(), np.float64, len(known)))

    def __len__(self) -> int:
        return len(self.genes)

    @cached_property
    def place(self) -> Mapping[str, int]:
        return {name: place for place, name in enumerate(self.genes)}


@dataclass(frozen=True)
class GeneLists:
    """Lists of genes, restricted to a background. `names_F` says which; `member_FG` is 1 where a gene is in."""

    names_F: Int64
    member_FG: sparse.csr_matrix

    @classmethod
    def of(cls, background: Background, names: Sequence[int], lists: Iterable[Iterable[str]]) -> GeneLists:
        """Matching is exact and case sensitive; repeated and unknown genes are left out."""
        return cls(np.asarray(names, np.int64), memberships(background, lists))

    @cached_property
    def size_F(self) -> Int64:
        return np.diff(self.member_FG.indptr).astype(np.int64)

    def __len__(self) -> int:
        return len(self.names_F)

    def part(self, start: int, stop: int) -> GeneLists:
        return GeneLists(self.names_F[start:stop], self.member_FG[start:stop])


@dataclass(frozen=True)
class TermSets:
    """The terms of one source, restricted to a background and to a range of sizes.

    evidence_group: what kind of witness the source is; sources of one group are not independent.
    parents_T: the direct parents of each term, as term ids; empty where the source has no hierarchy.
    """

    source: str
    evidence_group: str
    term_id_T: tuple[str, ...]
    name_T: tuple[str, ...]
    member_GT: sparse.csr_matrix
    parents_T: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(
        cls,
        background: Background,
        source: str,
        evidence_group: str,
        terms: Sequence[tuple[str, str]],
        genes: Iterable[Iterable[str]],
        *,
        smallest: int = SMALLEST_TERM,
        largest: int = LARGEST_TERM,
        parents: Sequence[tuple[str, ...]] = (),
    ) -> TermSets:
        """terms: (id, name) of each; genes: its genes, in the same order.

        Sizes are those after restriction to the background; terms outside [smallest, largest] are not tested.
        """
        member_TG = memberships(background, genes)
        if member_TG.shape[0] != len(terms):
            raise ValueError(f"{source}: {len(terms)} terms, genes of {member_TG.shape[0]}")
        size_T = np.diff(member_TG.indptr)
        kept = np.flatnonzero((size_T >= smallest) & (size_T <= largest))
        return cls(
            source,
            evidence_group,
            tuple(terms[term][0] for term in kept),
            tuple(terms[term][1] for term in kept),
            member_TG[kept].T.tocsr(),
            tuple(parents[term] for term in kept) if parents else (),
        )

    @cached_property
    def size_T(self) -> Int64:
        return np.bincount(self.member_GT.indices, minlength=len(self)).astype(np.int64)

    def __len__(self) -> int:
        return len(self.term_id_T)

    def permuted(self, order_G: Int64) -> TermSets:
        """The same terms with the genes relabelled: gene g takes the memberships of gene order_G[g]."""
        return replace(self, member_GT=self.member_GT[order_G])


def memberships(background: Background, sets: Iterable[Iterable[str]]) -> sparse.csr_matrix:
    """One row per set, 1 where a gene of the background is in it; int16, columns ascending."""
    place = background.place
    columns = [sorted({place[gene] for gene in genes if gene in place}) for genes in sets]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in columns], dtype=np.int64)]).astype(np.int32)
    indices = np.fromiter((column for row in columns for column in row), np.int32, int(indptr[-1]))
    return sparse.csr_matrix(
        (np.ones(indices.size, np.int16), indices, indptr), shape=(len(columns), len(background))
    )
