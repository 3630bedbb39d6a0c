"""CellWhisperer's votes for the top genes of a selection."""

import math

import numpy as np
from scipy import sparse

from engine.serving.chat.top_genes import N_PLACES, VOTES, top_genes


def test_votes_fall_with_the_place() -> None:
    assert VOTES.tolist() == [math.ceil(math.log2(100 - place)) for place in range(100)]
    assert (VOTES[0], VOTES[-1]) == (7, 0)


def test_genes_are_ranked_by_votes_not_by_counts() -> None:
    """As the sum over cells of each gene's place, written out."""
    random = np.random.default_rng(0)
    counts_CG = random.poisson(0.8, size=(40, 150)).astype(np.float64) * (random.random((40, 150)) < 0.9)
    normaliser_G = np.log1p(counts_CG).mean(axis=0)
    votes_G = np.zeros(150)
    for counts_G in counts_CG:
        order = np.argsort(-(counts_G / np.exp(normaliser_G)), kind="stable")[:N_PLACES]
        for place, gene in enumerate(order):
            votes_G[gene] += math.ceil(math.log2(100 - place)) if counts_G[gene] else 0
    expected = np.argsort(-votes_G, kind="stable")[:50]
    assert top_genes(sparse.csr_matrix(counts_CG), normaliser_G, 50).tolist() == expected.tolist()


def test_a_gene_that_no_cell_has_is_never_a_top_gene() -> None:
    counts_CG = sparse.csr_matrix(np.array([[0, 3, 0, 1], [0, 2, 0, 0]]))
    assert top_genes(counts_CG, np.zeros(4), 50).tolist() == [1, 3]
