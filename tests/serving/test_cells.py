"""Maps, annotations, genes and selections over HTTP."""

import numpy as np
from fastapi.testclient import TestClient

from engine.serving.settings import Settings
from storage.cells import CellStore
from storage.index import VectorIndex


def levels(response: object) -> np.ndarray:
    return np.frombuffer(response.content, np.uint8)  # type: ignore[attr-defined]


def test_one_number_a_cell_in_the_order_of_ids(client: TestClient, served: Settings) -> None:
    store = CellStore.open(served.cells)
    n_cells = client.get("/readyz").json()["n_cells"]
    assert n_cells == VectorIndex.open(served.index).n_cells
    ids = client.get("/v1/cells/ids").json()["ranges"]
    rows = np.concatenate([np.arange(*each) for each in ids])
    types = store.obs(["cell_type"])["cell_type"].astype(str).to_numpy()[rows]
    names = client.get("/v1/cells/columns/cell_type/categories").json()["categories"]
    codes = levels(client.get("/v1/cells/columns/cell_type"))
    assert [names[code - 1] for code in codes] == types.tolist()
    assert len(client.get("/v1/cells/layout").content) == 4 * n_cells


def test_a_gene_is_its_expression(client: TestClient, served: Settings) -> None:
    store = CellStore.open(served.cells)
    gene = "CD79A"
    response = client.get(f"/v1/genes/{gene}/expression")
    rows = np.concatenate([np.arange(*each) for each in client.get("/v1/cells/ids").json()["ranges"]])
    counts = store.read(0, store.n_cells).to_csr()
    column = list(store.genes["gene_name"]).index(gene)
    expected = np.log1p(counts[:, column].toarray().ravel() * 1e4 / counts.sum(1).A1)[rows]
    low, high = (float(response.headers[f"x-score-{end}"]) for end in ("low", "high"))
    found = low + (levels(response).astype(float) - 1) / 254 * (high - low)
    np.testing.assert_allclose(found, expected, atol=(high - low) / 254)
    assert client.get("/v1/genes", params={"prefix": "cd79"}).json()["genes"] == ["CD79A", "CD79B"]
    assert client.get("/v1/genes/NOGENE/expression").json()["error"]["code"] == "no_gene"


def test_markers_of_b_cells(client: TestClient) -> None:
    body = {"cells": {"where": "cell_type = 'B cell'"}, "most": 10}
    found = client.post("/v1/markers", json=body).json()
    genes = {gene["gene"]: gene for gene in found["genes"]}
    assert {"CD79A", "MS4A1"} & set(genes)
    best = found["genes"][0]
    assert best["auc"] > 0.75
    assert best["share"] > best["share_of_rest"]
    # Turned round, what was high is low.
    body = {
        "cells": {"where": "cell_type != 'B cell'"},
        "against": {"where": "cell_type = 'B cell'"},
        "most": 200,
    }
    others = {gene["gene"] for gene in client.post("/v1/markers", json=body).json()["genes"]}
    assert not others & set(genes)


def test_a_selection_is_named_by_its_cells(client: TestClient) -> None:
    made = client.post("/v1/selections", json={"where": "cell_type = 'B cell'"})
    assert made.status_code == 201
    name = made.json()["id"]
    whole = client.get(f"/v1/selections/{name}").json()
    assert whole["n_cells"] == made.json()["n_cells"]
    again = client.post("/v1/selections", json={"ranges": whole["ranges"]}).json()
    assert again["id"] == name
    top = whole["composition"]["cell_type"][0]
    assert (top["value"], top["share"]) == ("B cell", 1.0)
    assert client.post("/v1/selections", json={"where": "cell_type = 'unheard of'"}).status_code == 400


def test_what_is_not_loaded_says_so(client: TestClient) -> None:
    response = client.get("/v1/features")
    assert (response.status_code, response.json()["error"]["code"]) == (501, "not_loaded")
    assert "--features" in response.json()["detail"]
