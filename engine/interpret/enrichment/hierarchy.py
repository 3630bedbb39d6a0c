"""Terms under terms: is a term enriched beyond its parents? (Grossmann and others 2007)

A gene of a phenotype is a gene of every broader one, so a list enriched in one narrow phenotype is enriched
in all above it. The parent-child test takes the genes of a term's parents as its universe: what is left is
what the term adds.

Shape legend: F lists, G genes, T terms tested, A all terms of the source, N tests with an overlap above zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse

from engine.interpret.enrichment.exact import blocks_of
from engine.interpret.enrichment.lists import Background, GeneLists, TermSets, term_members
from engine.interpret.runs import Float64, Int64
from engine.interpret.statistics import benjamini_hochberg, fisher_greater

ABNORMALITY = "HP:0000118"
"""Phenotypic abnormality: its children are the organ systems."""


@dataclass(frozen=True)
class Hierarchy:
    """The hierarchy of one source, as far as tests need it.

    universe_GT: 1 where a gene is in the parents of a term; every gene for a term without parents. above_TT:
    1 where the column's term lies above the row's. systems_T: names of the broad terms each is under, joined
    by `|`; empty without such terms.
    """

    universe_GT: sparse.csr_matrix
    above_TT: sparse.csr_matrix
    systems_T: tuple[str, ...]

    @classmethod
    def of(
        cls,
        background: Background,
        tested: TermSets,
        terms: pd.DataFrame,
        associations: pd.DataFrame,
        how: Literal["union", "intersection"] = "union",
    ) -> Hierarchy | None:
        """None when no term has a parent. how: a gene is in the parents when it is in any, or in all."""
        parents_AA = parent_matrix(terms)
        if not parents_AA.nnz:
            return None
        above_AA = closure(parents_AA)
        member_AG = propagated(term_members(background, terms, associations), above_AA)
        place_T = pd.Index(terms["term_id"]).get_indexer(pd.Index(tested.term_id_T))
        of_parents = (parents_AA[place_T] @ member_AG).tocsr()
        n_parents_T = np.diff(parents_AA[place_T].indptr)
        if how == "intersection":
            rows = np.repeat(np.arange(len(place_T)), np.diff(of_parents.indptr))
            of_parents.data = (of_parents.data == n_parents_T[rows]).astype(np.int16)
            of_parents.eliminate_zeros()
        universe_TG = _ones(of_parents)
        roots = np.flatnonzero(n_parents_T == 0)
        if roots.size:
            whole = sparse.csr_matrix(
                (np.ones(roots.size, np.int16), (roots, np.zeros(roots.size, np.int64))),
                shape=(len(place_T), 1),
            ) @ np.ones((1, len(background)), np.int16)
            universe_TG = _ones(universe_TG + sparse.csr_matrix(whole))
        return cls(universe_TG.T.tocsr(), above_AA[place_T][:, place_T], _systems(terms, above_AA, place_T))


def parent_matrix(terms: pd.DataFrame) -> sparse.csr_matrix:
    """1 at (term, direct parent), [A, A]; parents that are no terms of the source are left out."""
    listed = terms["parents"] if "parents" in terms else pd.Series([()] * len(terms))
    counts = [len(parents) for parents in listed]
    child_P = np.repeat(np.arange(len(terms)), counts)
    names = np.array([parent for parents in listed for parent in parents], dtype=object)
    parent_P = pd.Index(terms["term_id"]).get_indexer(pd.Index(names, dtype=object))
    known = (parent_P >= 0) & (parent_P != child_P)
    shape = (len(terms), len(terms))
    return _ones(
        sparse.csr_matrix((np.ones(known.sum(), np.int16), (child_P[known], parent_P[known])), shape=shape)
    )


def closure(parents_AA: sparse.csr_matrix) -> sparse.csr_matrix:
    """1 at (term, term above it), at whatever distance."""
    reached = parents_AA
    while True:
        further = _ones(reached + reached @ reached)
        if further.nnz == reached.nnz:
            return reached
        reached = further


def propagated(member_AG: sparse.csr_matrix, above_AA: sparse.csr_matrix) -> sparse.csr_matrix:
    """The true-path rule: a gene of a term is a gene of all terms above it. Twice is as good as once."""
    return _ones(member_AG + above_AA.T @ member_AG)


def _ones(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    found = sparse.csr_matrix(matrix)
    found.data = np.ones(found.data.size, np.int16)
    found.sort_indices()
    return found


def _systems(terms: pd.DataFrame, above_AA: sparse.csr_matrix, place_T: Int64) -> tuple[str, ...]:
    ids, names = terms["term_id"].tolist(), terms["name"].tolist()
    if ABNORMALITY not in ids:
        return ("",) * len(place_T)
    broad = parent_matrix(terms)[:, [ids.index(ABNORMALITY)]].toarray().ravel() > 0
    rows = (_ones(above_AA + sparse.eye(len(ids), dtype=np.int16, format="csr"))[place_T]).tocsr()
    return tuple(
        "|".join(names[column] for column in rows[row].indices if broad[column])
        for row in range(len(place_T))
    )


@dataclass(frozen=True)
class ParentChild:
    """Parent-child tests of all lists and all terms of a source, by their distinct p values, ascending."""

    p: Float64
    count: Int64
    q: Float64

    def rates(self, p_N: Float64) -> Float64:
        """Rates of tests of this family."""
        return self.q[np.searchsorted(self.p, p_N)]


def parent_child_p(
    lists: GeneLists, terms: TermSets, hierarchy: Hierarchy, list_N: Int64, term_N: Int64
) -> Float64:
    """p of some (list, term) pairs: at least so many of the list's genes in the parents are in the term."""
    member_TG, universe_TG = terms.member_GT.T.tocsr(), hierarchy.universe_GT.T.tocsr()
    chosen = lists.member_FG[list_N]
    hits_N = np.asarray(chosen.multiply(member_TG[term_N]).sum(axis=1), np.int64).ravel()
    drawn_N = np.asarray(chosen.multiply(universe_TG[term_N]).sum(axis=1), np.int64).ravel()
    universe_T = np.diff(universe_TG.indptr).astype(np.int64)
    size_T = _inside(terms, hierarchy)
    return _tail(hits_N, drawn_N, size_T[term_N], universe_T[term_N])


def parent_child(lists: GeneLists, terms: TermSets, hierarchy: Hierarchy) -> ParentChild:
    """All tests, those without a shared gene (p = 1) included."""
    universe_T = np.bincount(hierarchy.universe_GT.indices, minlength=len(terms)).astype(np.int64)
    size_T = _inside(terms, hierarchy)
    largest = int(lists.sizes.max(initial=0)) + 1
    keys: list[Int64] = []
    counts: list[Int64] = []
    for start, stop in blocks_of(lists, terms):
        part = lists.member_FG[start:stop]
        hits = (part @ terms.member_GT).tocsr()
        drawn = (part @ hierarchy.universe_GT).tocsr()
        both = (hits * np.int32(largest)).astype(np.int32) + drawn.multiply(hits > 0).astype(np.int32)
        both = sparse.csr_matrix(both)
        key, count = np.unique(both.indices.astype(np.int64) * largest**2 + both.data, return_counts=True)
        keys.append(key)
        counts.append(count)
    key, place = np.unique(np.concatenate([*keys, np.empty(0, np.int64)]), return_inverse=True)
    count = np.bincount(place, weights=np.concatenate([*counts, np.empty(0)]), minlength=key.size)
    term, pair = np.divmod(key, largest**2)
    hits_K, drawn_K = np.divmod(pair, largest)
    p_K = _tail(hits_K, drawn_K, size_T[term], universe_T[term])
    p, place = np.unique(np.append(p_K, 1.0), return_inverse=True)
    silent = len(lists) * len(terms) - int(count.sum())
    total = np.bincount(place, weights=np.append(count, silent), minlength=p.size).astype(np.int64)
    return ParentChild(p, total, benjamini_hochberg(p, total))


def _inside(terms: TermSets, hierarchy: Hierarchy) -> Int64:
    """Genes of each term that are in its universe: all of them, unless all parents must have them."""
    shared = terms.member_GT.multiply(hierarchy.universe_GT).tocsr()
    return np.bincount(shared.indices, minlength=len(terms)).astype(np.int64)


def _tail(hits: Int64, drawn: Int64, size: Int64, universe: Int64) -> Float64:
    """Each distinct test once: there are far fewer than tests."""
    tests = np.stack([hits, drawn, size, universe])
    distinct, place = np.unique(tests, axis=1, return_inverse=True)
    found: Float64 = fisher_greater(
        distinct[0], distinct[1], distinct[2] - distinct[0], distinct[3] - distinct[1]
    )
    return found[place.ravel()]


def most_specific(
    hierarchy: Hierarchy, list_N: Int64, term_N: Int64, significant_N: np.ndarray
) -> np.ndarray:
    """Which of the tests are significant with no significant term below them in the same list."""
    specific_N = significant_N.copy()
    for number in np.unique(list_N[significant_N]):
        rows = np.flatnonzero(significant_N & (list_N == number))
        above = hierarchy.above_TT[term_N[rows]][:, term_N[rows]]
        specific_N[rows[np.asarray(above.sum(axis=0)).ravel() > 0]] = False
    return specific_N
