"""Normalisers, top genes, normalised expression and sums over clusters, against the plain dense way."""

import numpy as np
import scanpy
from scipy import sparse

from engine.retrieval.annotation import expression
from engine.retrieval.annotation.expression import ExpressionPass, gene_normalisers, membership, top_genes
from storage.cells import CellStore
from tests.retrieval.blood import Blood


def test_normalisers_and_top_genes_are_cellwhisperers(blood: Blood, monkeypatch) -> None:
    monkeypatch.setattr(expression, "BLOCK_CELLS", 64)
    store = CellStore.open(blood.store)
    dense = store.read(0, 300).to_csr().toarray().astype(np.float64)
    normaliser_G = gene_normalisers(store, 300)
    np.testing.assert_allclose(normaliser_G, np.log1p(dense).mean(0), rtol=1e-6)
    found = top_genes(sparse.csr_matrix(dense), normaliser_G, 20)
    ratio = dense / np.exp(normaliser_G)
    for cell in (0, 100, 299):
        expected = np.argsort(-ratio[cell], kind="stable")[:20]
        np.testing.assert_array_equal(found[cell], expected)
    assert (found[17] == -1).all()


def test_the_pass_normalises_as_scanpy_and_adds_up_clusters(blood: Blood, monkeypatch) -> None:
    monkeypatch.setattr(expression, "BLOCK_CELLS", 64)
    store = CellStore.open(blood.store)
    cluster_C = (np.arange(200) % 3).astype(np.int32)
    cluster_C[7] = -1
    whole_C = np.zeros(200, np.int32)
    top: dict[int, np.ndarray] = {}
    passed = ExpressionPass(
        store, 200, np.zeros(store.n_genes), 5, top.__setitem__, [cluster_C, whole_C], [3, 1]
    )
    logged = sparse.vstack(list(passed.run()), format="csr").T.toarray()
    expected = blood.counts[:200].copy()
    expected.X = expected.X.astype(np.float32)
    scanpy.pp.normalize_total(expected, target_sum=1e4)
    scanpy.pp.log1p(expected)
    expected = expected.X.toarray()
    np.testing.assert_allclose(logged, expected, atol=1e-5)
    assert sorted(top) == [0, 64, 128, 192]
    rows = cluster_C == 1
    np.testing.assert_allclose(passed.sums.sum_NG[1], expected[rows].sum(0), rtol=1e-4)
    np.testing.assert_allclose(passed.sums.square_NG[1], (expected[rows] ** 2).sum(0), rtol=1e-4)
    np.testing.assert_array_equal(passed.sums.cells_NG[1], (expected[rows] > 0).sum(0))
    assert list(passed.sums.size_N) == [67, 66, 66, 200]


def test_huge_stores_lose_their_smallest_values(blood: Blood, monkeypatch) -> None:
    monkeypatch.setattr(expression, "THINNED", ((1_000, 1.5),))
    store = CellStore.open(blood.store)
    passed = ExpressionPass(
        store, 50, np.zeros(store.n_genes), 5, lambda start, top: None, [np.zeros(50, np.int32)], [1]
    )
    values = np.concatenate([genes.data for genes in passed.run()])
    assert 0 < len(values) < store.nnz_per_cell[:50].sum()
    assert values.min() >= 1.5


def test_membership_of_several_fields() -> None:
    found = membership([np.array([0, -1, 1]), np.array([1, 0, 0])], [2, 2]).toarray()
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 0, 1], [0, 1, 1], [1, 0, 0]])
