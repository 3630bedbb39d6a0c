"""Cells that are no landmarks land among their own."""

from pathlib import Path

import numpy as np
import pandas as pd

from engine.retrieval.annotation import graph, layout
from engine.retrieval.annotation.graph import Nearest
from engine.retrieval.annotation.layout import Layout, LayoutOptions, Placing, find_landmarks, rows_of
from storage.embeddings import Embeddings
from tests.retrieval.inputs import write_embeddings


def embeddings(folder: Path, n_cells: int) -> tuple[Embeddings, np.ndarray]:
    """Three distant groups, sizes 3:2:1, cell 5 without an embedding."""
    random = np.random.default_rng(0)
    group = np.array([0, 0, 0, 1, 1, 2])[np.arange(n_cells) % 6]
    e_CD = (10 * np.eye(8)[group] + random.normal(size=(n_cells, 8))).astype(np.float32)
    e_CD[5] = np.nan
    obs = pd.DataFrame(index=[str(cell) for cell in range(n_cells)])
    write_embeddings(str(folder / "e"), e_CD, obs, chunk=64)
    return Embeddings.open(str(folder / "e")), group


def lay_out(found: Embeddings, n_cells: int, options: LayoutOptions) -> Layout:
    """Ranges of 100 cells placed one after the other."""
    landmarks = find_landmarks(found, n_cells, options)
    placing = Placing(found, landmarks)
    ranges = [(start, min(start + 100, n_cells)) for start in range(0, n_cells, 100)]
    placed = [placing.place(start, found.read(start, stop)) for start, stop in ranges]
    return Layout.of_parts([place for place, _ in placed], [cluster for _, cluster in placed], len(landmarks))


def test_rows_are_read_across_blocks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(layout, "BLOCK_CELLS", 50)
    found, _ = embeddings(tmp_path, 300)
    rows = np.array([0, 49, 50, 51, 299])
    np.testing.assert_array_equal(rows_of(found, rows), found.X[rows])


def test_landmarks_place_the_others(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(layout, "BLOCK_CELLS", 100)
    monkeypatch.setattr(graph, "EXACT_CELLS", 100)  # faiss' graph instead of exact search
    found, group = embeddings(tmp_path, 600)
    laid = lay_out(found, 600, LayoutOptions(landmarks=150, resolution=0.2, seed=1))
    assert laid.n_landmarks == 150
    assert laid.cluster_C[5] == -1
    assert np.isnan(laid.place_C2[5]).all()
    known = np.flatnonzero(laid.cluster_C >= 0)
    assert len(known) == 599
    # Every cluster is within one group, the first one is the largest, and the groups lie apart on the map.
    for cluster in range(laid.n_clusters):
        assert len(set(group[laid.cluster_C == cluster])) == 1
    sizes = np.bincount(laid.cluster_C[known])
    assert (np.diff(sizes) <= 0).all()
    centres = np.stack([laid.place_C2[known][group[known] == g].mean(0) for g in range(3)])
    nearest = np.linalg.norm(laid.place_C2[known][:, None] - centres, axis=2).argmin(1)
    assert (nearest == group[known]).mean() > 0.97


def test_few_cells_need_no_graph(tmp_path: Path) -> None:
    found, _ = embeddings(tmp_path, 300)
    laid = lay_out(found, 3, LayoutOptions())
    assert list(laid.cluster_C) == [0, 0, 0]
    assert len({tuple(place) for place in laid.place_C2}) == 3


def test_many_cells_have_the_neighbours_they_should() -> None:
    """More than scanpy hands to pynndescent, some of them equal."""
    random = np.random.default_rng(0)
    e_MU = random.normal(size=(9000, 6)).astype(np.float32)
    e_MU[100:140] = e_MU[100]
    found = Nearest(10).fit_transform(e_MU)
    assert (np.diff(found.indptr) == 10).all()
    near_MK = found.indices.reshape(-1, 10)
    assert (near_MK[:, 0] == np.arange(9000)).all()
    for cell in (0, 110, 8999):
        distance = np.linalg.norm(e_MU - e_MU[cell], axis=1)
        np.testing.assert_allclose(
            np.sort(found.data[cell * 10 : cell * 10 + 10]), np.sort(distance)[:10], atol=2e-3
        )
        assert len(set(near_MK[cell])) == 10
    again = Nearest(10).fit_transform(e_MU)
    assert (again.indices == found.indices).all()
