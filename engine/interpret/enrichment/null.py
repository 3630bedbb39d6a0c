"""What chance finds: gene labels shuffled among genes that are about as well annotated and as expressed.

Genes with many annotations are in many terms and, in models of expression, in many lists: such lists are
enriched in something whatever they mean. A shuffle of all labels would hide that; one inside strata of
(annotation degree, expression) keeps it, with the overlaps among lists and among terms, and breaks only
which gene is which.

Shape legend: G genes, F lists, S sources, E entries of the tail table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.interpret.enrichment.lists import Background, TermSets
from engine.interpret.runs import Float64, Int64

DEGREE_BANDS, EXPRESSION_BANDS = 40, 10
"""Fine strata: with 20 in all, half of what annotation alone produces is not reproduced."""
GENES_IN_STRATUM = 20
"""On small backgrounds strata are fewer, so that about so many genes share one."""


def annotation_degree(background: Background, sources: Sequence[TermSets]) -> Int64:
    """Terms, of all sources, that each gene is in: [G]."""
    degree_G = np.zeros(len(background), np.int64)
    for terms in sources:
        degree_G += np.diff(terms.member_GT.indptr)
    return degree_G


def strata(degree_G: Int64, expression_G: Float64) -> Int64:
    """Stratum of each gene: bands of about as many genes each by degree, and within each by expression."""
    n_genes = degree_G.size
    wanted = max(n_genes // GENES_IN_STRATUM, 1)
    shrink = min(1.0, np.sqrt(wanted / (DEGREE_BANDS * EXPRESSION_BANDS)))
    degree_bands = min(max(round(DEGREE_BANDS * shrink), 1), wanted)
    expression_bands = max(min(round(EXPRESSION_BANDS * shrink), wanted // degree_bands), 1)
    # Genes of one degree lie by expression, so that a band is never cut by chance.
    level_G = np.nan_to_num(expression_G, nan=0.0)
    stratum_G = np.empty(n_genes, np.int64)
    by_degree = np.lexsort((level_G, degree_G))
    for number, band in enumerate(np.array_split(by_degree, degree_bands)):
        by_level = band[np.argsort(level_G[band], kind="stable")]
        for part, genes in enumerate(np.array_split(by_level, expression_bands)):
            stratum_G[genes] = number * expression_bands + part
    return stratum_G


def shuffled(stratum_G: Int64, seed: int, number: int) -> Int64:
    """Permutation `number` of a run: order_G, in which every gene stays in its stratum."""
    draws_G = np.random.default_rng([seed, number]).random(stratum_G.size)
    order_G = np.empty(stratum_G.size, np.int64)
    order_G[np.argsort(stratum_G, kind="stable")] = np.lexsort((draws_G, stratum_G))
    return order_G
