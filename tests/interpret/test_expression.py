"""Expression looked up by cell and token equals scanpy's normalisation of the store's counts."""

from __future__ import annotations

import numpy as np
import pytest

from engine.interpret import expression
from engine.interpret.expression import Expression
from storage.cells import CellStore
from tests.interpret.inputs import CELLS, Place


def test_expression_is_log_counts_per_ten_thousand(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CellStore.open(str(place.cells))
    genes = list(store.genes.index)
    # A vocabulary in another order, with version suffixes, an unknown gene, and one gene left out.
    gene_ids = ["<cls>", *(f"{gene}.3" if gene.startswith("ENS") else gene for gene in genes[:0:-1]), "none"]
    dense = store.read(0, CELLS).to_csr().toarray().astype(np.float64)
    scaled = np.log1p(dense / dense.sum(axis=1, keepdims=True) * 1e4)
    expected = np.zeros((CELLS, len(gene_ids)))
    expected[:, 1:-1] = scaled[:, :0:-1]
    lookup = Expression.by_gene_id(store, gene_ids)
    cell_T, gene_T = (index.ravel() for index in np.indices(expected.shape))
    order = np.random.default_rng(0).permutation(cell_T.size)
    for cells_at_once in (4096, 7):
        monkeypatch.setattr(expression, "CELLS_AT_ONCE", cells_at_once)
        found = lookup(cell_T[order], gene_T[order])
        np.testing.assert_allclose(found, expected.ravel()[order], rtol=1e-6)
    assert lookup(cell_T[:0], gene_T[:0]).size == 0


def test_columns_of_one_token_are_added(place: Place) -> None:
    store = CellStore.open(str(place.cells))
    dense = store.read(3, 4).to_csr().toarray()[0].astype(np.float64)
    tokens = np.full(store.n_genes, -1, np.int32)
    tokens[:5] = 1
    found = Expression(store, tokens, 2)(np.array([3, 3]), np.array([0, 1]))
    assert found[0] == 0
    assert found[1] == pytest.approx(np.log1p(dense[:5].sum() / dense.sum() * 1e4), rel=1e-6)


def test_a_store_of_other_genes_gives_nothing(place: Place) -> None:
    lookup = Expression.by_gene_id(CellStore.open(str(place.cells)), ["other", "genes"])
    assert lookup(np.array([0, 1]), np.array([0, 1])).tolist() == [0, 0]
