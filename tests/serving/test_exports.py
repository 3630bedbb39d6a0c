"""Selections as files."""

import io
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from fastapi.testclient import TestClient

from engine.serving.api import create_api
from engine.serving.doors import Doors
from engine.serving.exports import CELL, MAP, VECTORS
from engine.serving.settings import Limits, Settings
from storage.cells import CellStore
from storage.index import VectorIndex


def selected(client: TestClient) -> str:
    return client.post("/v1/selections", json={"where": "cell_type = 'B cell'"}).json()["id"]


def test_a_table_of_annotations_and_scores(client: TestClient, served: Settings) -> None:
    name = selected(client)
    response = client.get(f"/v1/selections/{name}/export", params={"text": ["B cell", "T cell"]})
    assert response.headers["content-disposition"] == f'attachment; filename="{name}.csv"'
    table = pd.read_csv(io.StringIO(response.text), index_col="name")
    obs = CellStore.open(served.cells).obs()
    expected = obs[obs["cell_type"] == "B cell"]
    assert table.index.tolist() == expected.index.tolist()
    assert table["n_genes"].tolist() == expected["n_genes"].tolist()
    found = client.post("/v1/search", json={"text": "B cell", "where": "cell_type = 'B cell'", "k": 5}).json()
    score = table.set_index(CELL)["score: B cell"]
    for hit in found["hits"]:
        assert abs(score[hit["cell"]] - hit["score"]) < 2e-3
    assert score.mean() > table["score: T cell"].mean()


def test_an_h5ad_has_counts_vectors_and_the_map(client: TestClient, served: Settings, tmp_path: Path) -> None:
    name = selected(client)
    response = client.get(f"/v1/selections/{name}/export", params={"format": "h5ad", "text": "B cell"})
    (tmp_path / "cells.h5ad").write_bytes(response.content)
    cells = anndata.read_h5ad(tmp_path / "cells.h5ad")
    store, ids = CellStore.open(served.cells), cells.obs[CELL].to_numpy()
    assert (store.read(0, store.n_cells).to_csr()[ids] != cells.X).nnz == 0
    assert cells.var_names.tolist() == store.genes.index.tolist()
    assert set(cells.obs["cell_type"]) == {"B cell"}
    index = VectorIndex.open(served.index)
    vectors = np.concatenate([segment.arrays.vectors for segment in index.segments])[np.argsort(index.ids)]
    np.testing.assert_array_equal(cells.obsm[VECTORS], vectors[ids].astype(np.float32))
    assert cells.obsm[MAP].shape == (cells.n_obs, 2)
    assert cells.uns["syncytium"]["dataset_id"] == index.snapshot.dataset_id


def test_bounds_of_a_file(doors: Doors) -> None:
    settings = doors.settings.model_copy(update={"limits": Limits(exported_cells=10)})
    client = TestClient(create_api(replace(doors, settings=settings)))
    path = f"/v1/selections/{selected(client)}/export"
    assert client.get(path, params={"format": "h5ad"}).json()["error"]["code"] == "too_many_cells"
    assert client.get(path, params={"text": 'T "cell'}).json()["error"]["code"] == "bad_input"
    assert client.get("/v1/selections/sel_no/export").json()["error"]["code"] == "no_selection"
