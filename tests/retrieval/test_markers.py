"""Genes named in a text reorder its answers: real counts of blood cells, and a made-up order by text."""

from pathlib import Path

import anndata
import numpy as np
import pytest

from engine.retrieval import questions
from engine.retrieval.found import Found
from engine.retrieval.markers import Marker, expression, markers_of, reordered
from storage.cells import CellStore
from storage.errors import InputError
from storage.index import VectorIndex
from storage.locations import Location
from tests.retrieval.inputs import built
from tests.streaming.inputs import small_counts, small_store

__all__ = ["small_counts", "small_store"]


@pytest.fixture
def store(small_store: Path) -> CellStore:
    return CellStore.open(str(small_store))


@pytest.fixture
def index(store: CellStore, tmp_path: Path) -> VectorIndex:
    """Of as many made-up vectors, said to be the cells of the store that begin at its cell 100."""
    made = built(Location.of(tmp_path), n_cells=300)
    made.facts["sources"][0] |= {"cells": store.dataset_id, "first_id": 100, "n_cells": 200}
    return made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("T cell +GZMB -CCR7", {"GZMB": 1, "CCR7": -1}),
        ("NKG7+ cells, CCR7- and MS4A1.", {"NKG7": 1, "CCR7": -1, "MS4A1": 1}),
        ("-LYZ- monocyte", {"LYZ": 1}),
        ("2*CD3D HLA-DRA", {"CD3D": 1, "HLA-DRA": 1}),
        ("T cells and B cells with A and IT, gzmb", {}),
    ],
)
def test_genes_of_a_question(store: CellStore, text: str, expected: dict[str, float]) -> None:
    found = markers_of(questions.parse(text), store)
    assert {marker.symbol: marker.weight for marker in found} == expected
    names = store.genes["gene_name"].tolist()
    assert all(names[marker.column] == marker.symbol for marker in found)


def test_expression_is_that_of_the_counts(
    store: CellStore, index: VectorIndex, small_counts: anndata.AnnData
) -> None:
    markers = markers_of(questions.parse("LYZ NKG7"), store)
    cells = np.array([150, 99, 399, 100, 117])
    found = expression(cells, markers, index, store)
    assert np.isnan(found[[1, 2]]).all()  # of no cell of the store
    rows = small_counts[[50, 0, 17]].to_df()
    rows.columns = small_counts.var["gene_name"]
    per_10k = rows.div(rows.sum(axis=1).clip(lower=1), axis=0) * 1e4
    expected = np.log1p(per_10k[["LYZ", "NKG7"]].to_numpy())
    np.testing.assert_allclose(found[[0, 3, 4]], expected[[0, 1, 2]], rtol=1e-5)
    other = dict(index.facts["sources"][0], cells="another store")
    index.facts["sources"][0] = other
    with pytest.raises(InputError, match="was not made of this store"):
        expression(cells, markers, index, store)


def test_both_orders_count(store: CellStore, index: VectorIndex, small_counts: anndata.AnnData) -> None:
    is_monocyte = small_counts.obs["cell_type"].str.contains("monocyte").to_numpy()[:200]
    generator = np.random.default_rng(0)
    cells = 100 + generator.permutation(200)
    by_text = Found(np.linspace(1, 0, 200, dtype=np.float32), cells, 300, 1)
    markers = markers_of(questions.parse("LYZ -CD3D"), store)
    assert [marker.weight for marker in markers] == [1, -1]
    found, values = reordered(by_text, 20, markers, index, store)
    assert is_monocyte[found.cell - 100].mean() > 0.6 > 0.4 > is_monocyte[cells[:20] - 100].mean()
    assert values.shape == (20, 2)
    np.testing.assert_array_equal(found.score, [by_text.score[cells == cell][0] for cell in found.cell])
    # A gene that no cell has says nothing: the order stays that of the text.
    silent = Marker("silent", int(np.flatnonzero(np.asarray(small_counts.X.sum(0)).ravel() == 0)[0]), 1.0)
    same, _ = reordered(by_text, 20, [silent], index, store)
    np.testing.assert_array_equal(same.cell, cells[:20])
