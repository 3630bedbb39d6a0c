"""What chance finds: gene labels shuffled among genes that are about as well annotated and as expressed.

Genes with many annotations are in many terms and, in models of expression, in many lists: such lists are
enriched in something whatever they mean. A shuffle of all labels would hide that; one inside strata of
(annotation degree, expression) keeps it, with the overlaps among lists and among terms, and breaks only
which gene is which.

Shape legend: G genes, F lists, S sources, E entries of the tail table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from engine.interpret.enrichment.lists import Background, TermSets
from engine.interpret.runs import Float64, Int64

DEGREE_BANDS, EXPRESSION_BANDS = 60, 10
"""Fine strata: with few, half of what annotation alone produces is not reproduced."""
GENES_IN_STRATUM = 20
"""Strata hold at least about so many genes: smaller ones would hardly be shuffled."""


def annotation_degree(background: Background, sources: Sequence[TermSets]) -> Int64:
    """Terms, of all sources, that each gene is in: [G]."""
    degree_G = np.zeros(len(background), np.int64)
    for terms in sources:
        degree_G += np.diff(terms.member_GT.indptr)
    return degree_G


def strata(degree_G: Int64, expression_G: Float64) -> Int64:
    """Stratum of each gene: bands by degree that hold about as many annotations each, so that the few genes
    with most of them are told apart best; within each, bands of about as many genes by expression."""
    # Genes of one degree lie by expression, so that a band is never cut by chance.
    level_G = np.nan_to_num(expression_G, nan=0.0)
    by_degree = np.lexsort((level_G, degree_G))
    mass = np.cumsum(degree_G[by_degree] + 1)
    stratum_G = np.empty(degree_G.size, np.int64)
    n_strata = 0
    # Small backgrounds have fewer bands, so that expression still divides them.
    room = degree_G.size / GENES_IN_STRATUM
    n_bands = max(1, min(DEGREE_BANDS, round(np.sqrt(room * DEGREE_BANDS / EXPRESSION_BANDS))))
    for band in _bands(by_degree, (mass - 1) * n_bands // max(mass[-1:].sum(), 1)):
        parts = max(1, min(EXPRESSION_BANDS, band.size // GENES_IN_STRATUM))
        for genes in np.array_split(band[np.argsort(level_G[band], kind="stable")], parts):
            stratum_G[genes] = n_strata
            n_strata += 1
    return stratum_G


def _bands(genes: Int64, number: Int64) -> Iterator[Int64]:
    """Genes with the same number, in order; those of numbers with few genes join the next ones."""
    start = 0
    for stop in [*(np.flatnonzero(np.diff(number)) + 1).tolist(), genes.size]:
        left = genes.size - stop
        if stop - start >= GENES_IN_STRATUM and (left == 0 or left >= GENES_IN_STRATUM):
            yield genes[start:stop]
            start = stop
    if start < genes.size:
        yield genes[start:]


def shuffled(stratum_G: Int64, seed: int, number: int) -> Int64:
    """Permutation `number` of a run: order_G, in which every gene stays in its stratum."""
    draws_G = np.random.default_rng([seed, number]).random(stratum_G.size)
    order_G = np.empty(stratum_G.size, np.int64)
    order_G[np.argsort(stratum_G, kind="stable")] = np.lexsort((draws_G, stratum_G))
    return order_G
