"""Gene lists and term sets on one background: names become columns, memberships sparse matrices.

Shape legend: F lists, T terms, G genes of the background.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
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
        for name, level in zip(
            names, [np.nan] * len(names) if expression is None else expression, strict=True
        ):
            if name.strip():
                known.setdefault(name, float(level))
        return cls(tuple(known), np.fromiter(known.values(), np.float64, len(known)))

    def __len__(self) -> int:
        return len(self.genes)


@dataclass(frozen=True)
class GeneLists:
    """Lists of genes, restricted to a background. `names_F` says which; `member_FG` is 1 where a gene is in
    it."""

    names_F: Int64
    member_FG: sparse.csr_matrix

    @classmethod
    def of(cls, background: Background, names: Sequence[int], lists: Iterable[Iterable[str]]) -> GeneLists:
        """Matching is exact and case sensitive; repeated and unknown genes are left out."""
        found = [
            pd.Index(background.genes).get_indexer(pd.Index(list(genes), dtype=object)) for genes in lists
        ]
        row_P = np.repeat(np.arange(len(found)), [len(places) for places in found])
        gene_P = np.concatenate([*found, np.empty(0, np.int64)])
        known = gene_P >= 0
        shape = (len(found), len(background))
        return cls(np.asarray(names, np.int64), memberships(row_P[known], gene_P[known], shape))

    @cached_property
    def sizes(self) -> Int64:
        return np.diff(self.member_FG.indptr).astype(np.int64)

    def __len__(self) -> int:
        return len(self.names_F)

    def part(self, start: int, stop: int) -> GeneLists:
        return GeneLists(self.names_F[start:stop], self.member_FG[start:stop])


@dataclass(frozen=True)
class TermSets:
    """The terms of one source, restricted to a background and to a range of sizes.

    group_T: the evidence group of each term: what kind of witness it is; those of one group are not
    independent of each other.
    """

    source: str
    term_id_T: tuple[str, ...]
    name_T: tuple[str, ...]
    group_T: tuple[str, ...]
    member_GT: sparse.csr_matrix

    @classmethod
    def of(
        cls,
        background: Background,
        source: str,
        terms: pd.DataFrame,
        associations: pd.DataFrame,
        *,
        smallest: int = SMALLEST_TERM,
        largest: int = LARGEST_TERM,
    ) -> TermSets:
        """terms: `term_id`, `name`, `group`; associations: `gene`, `term_id`, in any order, repeats allowed.

        Matching is exact and case sensitive. Sizes are those after restriction to the background; terms
        outside [smallest, largest] are not tested.
        """
        member_TG = term_members(background, terms, associations)
        size_T = np.diff(member_TG.indptr)
        kept = np.flatnonzero((size_T >= smallest) & (size_T <= largest))
        ids, names, groups = (terms[name].to_numpy(object)[kept] for name in ("term_id", "name", "group"))
        return cls(source, tuple(ids), tuple(names), tuple(groups), member_TG[kept].T.tocsr())

    @cached_property
    def sizes(self) -> Int64:
        return np.bincount(self.member_GT.indices, minlength=len(self)).astype(np.int64)

    def __len__(self) -> int:
        return len(self.term_id_T)

    def permuted(self, order_G: Int64) -> TermSets:
        """The same terms with the genes relabelled: gene g takes the memberships of gene order_G[g]."""
        return replace(self, member_GT=self.member_GT[order_G])


def term_members(
    background: Background, terms: pd.DataFrame, associations: pd.DataFrame
) -> sparse.csr_matrix:
    """Genes of each term on the background, whatever their number: [T, G]."""
    term_P = pd.Index(terms["term_id"]).get_indexer(pd.Index(associations["term_id"]))
    gene_P = pd.Index(background.genes).get_indexer(pd.Index(associations["gene"]))
    known = (term_P >= 0) & (gene_P >= 0)
    return memberships(term_P[known], gene_P[known], (len(terms), len(background)))


def memberships(row_P: Int64, column_P: Int64, shape: tuple[int, int]) -> sparse.csr_matrix:
    """1 at each (row, column), however often it is named; int16, columns ascending within a row."""
    key = np.unique(row_P.astype(np.int64) * shape[1] + column_P)
    row, column = np.divmod(key, max(shape[1], 1))
    indptr = np.searchsorted(row, np.arange(shape[0] + 1)).astype(np.int32)
    return sparse.csr_matrix((np.ones(key.size, np.int16), column.astype(np.int32), indptr), shape=shape)
