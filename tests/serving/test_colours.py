"""What colours a map: a feature in every cell, a predicted change of every category, several layouts."""

from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from engine.serving.api import create_api
from engine.serving.doors import Doors
from engine.serving.problems import Problem
from engine.serving.rooms.cell_view import PLANE
from engine.serving.rooms.cells import CellRoom
from engine.serving.settings import Settings
from storage.cells import CellStore


@pytest.fixture(scope="module")
def asked(full: Doors) -> Iterator[TestClient]:
    with TestClient(create_api(full), raise_server_exceptions=False) as found:
        yield found


def levels(response: object) -> np.ndarray:
    """Values of the bytes; NaN where there is none."""
    found = np.frombuffer(response.content, np.uint8).astype(float)  # type: ignore[attr-defined]
    low, high = (float(response.headers[f"X-Score-{end}"]) for end in ("Low", "High"))  # type: ignore[attr-defined]
    return np.where(found > 0, low + (found - 1) / 254 * (high - low), np.nan)


def test_a_feature_is_known_where_the_tables_list_it(asked: TestClient) -> None:
    number = asked.get("/v1/features?most=1").json()["features"][0]["feature"]
    response = asked.get(f"/v1/features/{number}/levels")
    listed = dict(asked.get(f"/v1/features/{number}/cells").json()["cells"])
    n_listed, n_fired = (int(response.headers[f"X-Cells-{end}"]) for end in ("Listed", "Fired"))
    assert n_listed == len(listed)
    value_N = levels(response)
    assert len(value_N) == 700
    for cell, value in listed.items():
        assert value_N[cell] == pytest.approx(value, abs=max(listed.values()) / 200)
    others = np.delete(value_N, list(listed))
    # Silent where all are listed, and not known where only the strongest are.
    assert (others == 0).all() if n_listed >= n_fired else np.isnan(others).all()
    assert asked.get("/v1/features/1000000/levels").status_code == 404


def test_a_predicted_change_of_every_category(asked: TestClient) -> None:
    facts = asked.get("/v1/datasets").json()["perturbations"]
    body = {"perturbation": facts["trained"][0], "column": "cell_type", "context": "left"}
    sizes = asked.post("/v1/perturb/groups", json=body).json()["groups"]
    names = asked.get("/v1/cells/columns/cell_type/categories").json()["categories"]
    assert [group["name"] for group in sizes] == names
    assert sum(group["n_cells"] for group in sizes) == 700
    assert all(group["change"] > 0 for group in sizes)
    one = {"perturbation": facts["trained"][0], "cells": {"where": "cell_type = 'B cell'"}, "context": "left"}
    strongest = asked.post("/v1/perturb", json=one).json()["genes"][0]
    changes = asked.post("/v1/perturb/groups", json={**body, "gene": strongest["gene"]}).json()["groups"]
    of_b_cells = next(group for group in changes if group["name"] == "B cell")
    assert of_b_cells["change"] == pytest.approx(strongest["change"], abs=1e-3)
    assert of_b_cells["uncertainty"] == pytest.approx(strongest["uncertainty"], abs=1e-3)
    assert asked.post("/v1/perturb/groups", json={**body, "gene": "NOGENE"}).status_code == 404
    assert asked.post("/v1/perturb/groups", json={**body, "column": "n_genes"}).status_code == 400


def test_maps_of_a_file_stand_beside_the_plane(served: Settings, tmp_path: Path) -> None:
    names = CellStore.open(served.cells).obs([]).index
    across = np.stack([np.arange(len(names)), np.zeros(len(names))], axis=1).astype(np.float32)
    obsm = {"spatial": across[:, ::-1].copy(), "X_umap": across, "line": across[:, :1]}
    anndata.AnnData(obs=pd.DataFrame(index=names), obsm=obsm).write_h5ad(tmp_path / "map.h5ad")
    room = CellRoom(served.model_copy(update={"map": str(tmp_path / "map.h5ad")}))
    assert room.facts()["layouts"] == ["X_umap", "spatial", PLANE]
    assert room.layout() == room.layout("X_umap") != room.layout("spatial")
    y = np.frombuffer(room.layout("spatial"), "<u2").reshape(-1, 2)[:, 1].astype(int)
    assert (np.diff(y) >= 0).all()
    assert y[-1] > 60_000
    with pytest.raises(Problem, match="no layout 'X_tsne'"):
        room.layout("X_tsne")
