"""All lists x all terms at once: overlaps by a sparse product, p values from the tail table.

What shards leave adds up exactly: counts of integers, and minima. So a run over many workers equals that of
one process bit by bit, whatever the cuts.

Shape legend: F lists, T terms, G genes, E entries of the tail table, N tests with an overlap above zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.interpret.enrichment.lists import GeneLists, TermSets
from engine.interpret.enrichment.tails import TailTable
from engine.interpret.runs import Float64, Int32, Int64

BLOCK_TESTS = 4 << 20
"""Tests with an overlap worked on together, about: 100 MB of temporary arrays."""


@dataclass(frozen=True)
class KeptTests:
    """The tests with a small p, by list, then p. Places of lists and terms, not their names.

    within_N: false discovery rate of the test among all terms for its list (exploratory: a family of its
    own for each list).
    """

    list_N: Int64
    term_N: Int64
    entry_N: Int64
    within_N: Float64

    @classmethod
    def joined(cls, parts: Sequence[KeptTests]) -> KeptTests:
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__)
        )


@dataclass(frozen=True)
class Scan:
    """What the tests of some lists against the terms of one source come to.

    count_E: tests at each entry of the tail table; they add up to lists x terms, overlaps of zero included.
    best_F: smallest p of each list among overlaps of at least `min_overlap`. simes_F: one p for "some term
    holds" (Simes 1986), NaN when nothing was to be kept.
    """

    count_E: Int64
    best_F: Float64
    simes_F: Float64
    kept: KeptTests | None


def scan(
    lists: GeneLists,
    terms: TermSets,
    table: TailTable,
    *,
    min_overlap: int = 1,
    keep_p: float | None = None,
    first: int = 0,
) -> Scan:
    """Every list against every term. `keep_p`: also return the tests with p up to it; None: counts only.

    first: place of the first list, where `lists` is a part of others.
    """
    u_F, v_T = table.classes(lists.sizes, terms.sizes)
    count_E = np.zeros(table.p_E.size, np.int64)
    best_F, simes_F = np.ones(len(lists)), np.full(len(lists), np.nan if keep_p is None else 1.0)
    kept: list[KeptTests] = []
    countable_E = np.where(table.overlaps >= min_overlap, table.p_E, 1.0)
    for start, stop in blocks_of(lists, terms):
        row_N, term_N, entry_N = _overlaps(lists.part(start, stop), terms, table, u_F[start:stop], v_T)
        count_E += np.bincount(entry_N, minlength=count_E.size)
        starts, filled = _row_starts(row_N, stop - start)
        if entry_N.size:
            best_F[start + filled] = np.minimum.reduceat(countable_E[entry_N], starts)
        if keep_p is not None:
            block, simes = _kept(row_N, term_N, entry_N, table, stop - start, len(terms), keep_p)
            simes_F[start:stop] = simes
            kept.append(KeptTests(block.list_N + first + start, block.term_N, block.entry_N, block.within_N))
    _count_empty_overlaps(count_E, table, u_F, v_T)
    return Scan(count_E, best_F, simes_F, KeptTests.joined(kept) if kept else None)


def blocks_of(lists: GeneLists, terms: TermSets) -> Iterator[tuple[int, int]]:
    """Ranges of lists with about BLOCK_TESTS tests that overlap: each gene adds the terms it is in."""
    if not len(lists):
        return
    per_gene_G = np.diff(terms.member_GT.indptr).astype(np.int64)
    bound_F = np.minimum(lists.member_FG.astype(np.int64) @ per_gene_G, len(terms))
    block_F = np.cumsum(bound_F) // BLOCK_TESTS
    edges = [0, *(np.flatnonzero(np.diff(block_F)) + 1).tolist(), len(lists)]
    yield from itertools.pairwise(edges)


def _overlaps(
    lists: GeneLists, terms: TermSets, table: TailTable, u_F: Int64, v_T: Int64
) -> tuple[Int32, Int32, Int64]:
    """(row of the list, term, entry) of every test whose list and term share a gene."""
    shared = lists.member_FG @ terms.member_GT
    n_classes = table.start_UV.shape[1]
    row_N = np.repeat(np.arange(len(lists), dtype=np.int32), np.diff(shared.indptr))
    class_N = (u_F * n_classes)[row_N] + v_T[shared.indices]
    return row_N, shared.indices, table.start_UV.ravel()[class_N] + shared.data


def _row_starts(row_N: Int32, n_rows: int) -> tuple[Int64, Int64]:
    """(where each row that has tests begins, which rows those are)."""
    edges = np.searchsorted(row_N, np.arange(n_rows + 1))
    filled = np.flatnonzero(np.diff(edges))
    return edges[filled], filled


def _kept(
    row_N: Int32, term_N: Int32, entry_N: Int64, table: TailTable, n_rows: int, n_terms: int, keep_p: float
) -> tuple[KeptTests, Float64]:
    """The tests with p up to `keep_p`, and Simes' p of each row; rates within a row count all its tests.

    The j-th smallest p of a row counts as p * n_terms / j. With s overlaps above zero in a row that is at
    least 1 for any p above s / n_terms: such tests cannot lower a rate and are not sorted.
    """
    n_entries = table.p_E.size
    shared_F = np.bincount(row_N, minlength=n_rows)
    limit_F = np.maximum(keep_p, shared_F / n_terms)
    low = np.flatnonzero(table.p_E[entry_N] <= limit_F[row_N])
    key_S = row_N[low] * np.int64(n_entries) + table.ranks[entry_N[low]]
    key_S = np.sort(key_S * n_terms + term_N[low])
    key_S, term_S = np.divmod(key_S, n_terms)
    row_S, rank_S = np.divmod(key_S, n_entries)
    entry_S = table.order[rank_S]
    p_S = table.p_E[entry_S]
    starts, filled = _row_starts(row_S, n_rows)
    stops = np.append(starts, row_S.size)[1:]
    scaled_S = p_S * n_terms / (np.arange(1, row_S.size + 1) - np.repeat(starts, stops - starts))
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        ascending = scaled_S[start:stop][::-1]
        np.minimum.accumulate(ascending, out=ascending)
    np.minimum(scaled_S, 1.0, out=scaled_S)
    simes_F = np.ones(n_rows)
    simes_F[filled] = scaled_S[starts]
    kept = np.flatnonzero(p_S <= keep_p)
    return KeptTests(row_S[kept], term_S[kept], entry_S[kept], scaled_S[kept]), simes_F


def _count_empty_overlaps(count_E: Int64, table: TailTable, u_F: Int64, v_T: Int64) -> None:
    """Tests without a shared gene are tests as well: they have p = 1 and count in every correction."""
    n_lists_U = np.bincount(u_F, minlength=table.n_U.size)
    n_terms_V = np.bincount(v_T, minlength=table.K_V.size)
    if count_E.size:
        count_E[table.start_UV.ravel()] += np.outer(n_lists_U, n_terms_V).ravel() - np.add.reduceat(
            count_E, table.start_UV.ravel()
        )
