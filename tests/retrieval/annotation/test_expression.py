"""Sums for normalisers, top genes, normalised expression and sums over clusters, against the dense way."""

import numpy as np
import scanpy
from scipy import sparse

from engine.retrieval.annotation import expression
from engine.retrieval.annotation.expression import (
    ClusterSums,
    log_sums,
    membership,
    normalised,
    thinned,
    top_genes,
)
from storage.cells import CellStore
from tests.retrieval.blood import Blood


def test_normalisers_and_top_genes_are_cellwhisperers(blood: Blood, monkeypatch) -> None:
    monkeypatch.setattr(expression, "BLOCK_CELLS", 64)
    store = CellStore.open(blood.store)
    dense = store.read(0, 300).to_csr().toarray().astype(np.float64)
    normaliser_G = (log_sums(store, 0, 150) + log_sums(store, 150, 300)) / 300
    np.testing.assert_allclose(normaliser_G, np.log1p(dense).mean(0), rtol=1e-6)
    found = top_genes(sparse.csr_matrix(dense), normaliser_G, 20)
    ratio = dense / np.exp(normaliser_G)
    for cell in (0, 100, 299):
        expected = np.argsort(-ratio[cell], kind="stable")[:20]
        np.testing.assert_array_equal(found[cell], expected)
    assert (found[17] == -1).all()


def test_expression_is_normalised_as_by_scanpy_and_added_up_over_clusters(blood: Blood) -> None:
    store = CellStore.open(blood.store)
    cluster_C = (np.arange(200) % 3).astype(np.int32)
    cluster_C[7] = -1
    member_NC = membership([cluster_C, np.zeros(200, np.int32)], [3, 1])
    logged = normalised(store.read(0, 200).to_csr())
    expected = blood.counts[:200].copy()
    expected.X = expected.X.astype(np.float32)
    scanpy.pp.normalize_total(expected, target_sum=1e4)
    scanpy.pp.log1p(expected)
    expected = expected.X.toarray()
    np.testing.assert_allclose(logged.toarray(), expected, atol=1e-5)
    by_cell, by_gene = (ClusterSums.zeros(4, store.n_genes) for _ in range(2))
    by_cell.add(member_NC, logged)
    genes = logged.T.tocsr()
    for first, stop in ((0, 5_000), (5_000, store.n_genes)):
        by_gene.add_genes(first, member_NC, genes[first:stop])
    rows = cluster_C == 1
    for sums in (by_cell, by_gene):
        np.testing.assert_allclose(sums.sum_NG[1], expected[rows].sum(0), rtol=1e-4)
        np.testing.assert_allclose(sums.square_NG[1], (expected[rows] ** 2).sum(0), rtol=1e-4)
        np.testing.assert_array_equal(sums.cells_NG[1], (expected[rows] > 0).sum(0))
        assert list(sums.size_N) == [67, 66, 66, 200]


def test_huge_stores_lose_their_smallest_values(blood: Blood, monkeypatch) -> None:
    monkeypatch.setattr(expression, "THINNED", ((1_000, 1.5),))
    genes = normalised(CellStore.open(blood.store).read(0, 50).to_csr()).T.tocsr()
    assert thinned(genes, 1_000) is genes
    kept = thinned(genes, 1_001)
    assert 0 < kept.nnz < genes.nnz
    assert kept.data.min() >= 1.5


def test_membership_of_several_fields() -> None:
    found = membership([np.array([0, -1, 1]), np.array([1, 0, 0])], [2, 2]).toarray()
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 0, 1], [0, 1, 1], [1, 0, 0]])
