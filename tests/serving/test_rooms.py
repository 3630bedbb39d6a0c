"""Rooms by themselves: features, perturbations, maps, and what waits together."""

import asyncio
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from engine.perturbation.predictor import Predictor
from engine.serving.batching import Batches
from engine.serving.doors import Doors
from engine.serving.problems import Problem
from engine.serving.rooms.cells import CellRoom
from engine.serving.rooms.counts import CountRoom
from engine.serving.rooms.features import FeatureRoom
from engine.serving.rooms.perturbations import PerturbationRoom
from engine.serving.settings import Settings
from storage.cells import CellStore
from storage.errors import InputError
from tests.interpret.enrichment.example import write_features
from tests.perturbation.screens import GENES, small_store
from tests.serving.conftest import screen_model


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("screened")
    store = small_store(folder)
    return Settings(
        index="none", cells=store, perturbation=screen_model(store, folder / "model", held_out="G1")
    )


def test_a_perturbation_is_the_predictor_s(screened: Settings) -> None:
    room, counts = PerturbationRoom(screened), CountRoom(screened)
    store = CellStore.open(screened.cells)
    obs = store.obs(["target", "line"])
    controls = np.flatnonzero((obs["target"] == "non-targeting") & (obs["line"] == "left"))
    before_G, missing = counts.profile(controls, room.genes())
    assert missing == []
    found = room.predict(before_G, "G0", "left", 5)
    expected = Predictor.load(screened.perturbation).predict(before_G, [("G0",)], "left")
    changes = {gene["gene"]: gene for gene in found["genes"]}
    # The target itself falls most.
    assert found["genes"][0]["gene"] == "G0"
    assert changes["G0"]["change"] < -0.5
    row = GENES.index("G0")
    assert changes["G0"]["change"] == pytest.approx(expected.delta_QG[0][row], abs=1e-4)
    assert changes["G0"]["uncertainty"] == pytest.approx(expected.uncertainty_QG[0][row], abs=1e-4)
    assert found["trained"]
    assert changes["G0"]["baselines"]["control"] == 0
    known = Predictor.load(screened.perturbation).prior.screened
    assert changes["G0"]["baselines"]["mean_delta"] == pytest.approx(
        known.delta_PG.mean(axis=0)[row], abs=1e-4
    )
    assert found["likeness"]["same_perturbation"] > found["likeness"]["mean_delta"]
    with pytest.raises(InputError, match="knows nothing of: NOGENE"):
        room.predict(before_G, "NOGENE", "left", 5)
    with pytest.raises(Problem, match="is the control"):
        room.predict(before_G, "non-targeting", "left", 5)


def test_features_are_paged_and_found_by_gene(tmp_path: Path) -> None:
    features = write_features(tmp_path / "features")
    room = FeatureRoom(Settings(index="none", features=str(features)))
    page = room.page(None, "density", 0, 5)
    assert page["total"] == room.facts()["n_features"]
    densities = [row["density"] for row in page["features"]]
    assert densities == sorted(densities, reverse=True)
    number = page["features"][0]["feature"]
    whole = room.feature(number)
    gene = whole["top_genes"][0]["gene_name"]
    assert number in [row["feature"] for row in room.page(gene, "density", 0, 500)["features"]]
    assert whole["neighbours"] == []
    with pytest.raises(Problem, match="no column"):
        room.page(None, "beauty", 0, 5)
    with pytest.raises(Problem, match="no feature"):
        room.feature(10**9)


def test_a_map_is_read_by_the_cells_names(served: Settings, tmp_path: Path) -> None:
    names = CellStore.open(served.cells).obs([]).index[::-1]
    places = np.stack([np.arange(len(names)), np.zeros(len(names))], axis=1).astype(np.float32)
    made = anndata.AnnData(obs=pd.DataFrame(index=names), obsm={"X_umap": places})
    made.write_h5ad(tmp_path / "map.h5ad")
    room = CellRoom(served.model_copy(update={"map": str(tmp_path / "map.h5ad")}))
    x = np.frombuffer(room.layout(), "<u2").reshape(-1, 2)[:, 0].astype(int)
    assert (np.diff(x) <= 0).all()
    assert x[0] - x[-1] > 60_000
    made.obs_names = [f"other-{name}" for name in names]
    made.write_h5ad(tmp_path / "strangers.h5ad")
    with pytest.raises(InputError, match="none of the cells"):
        CellRoom(served.model_copy(update={"map": str(tmp_path / "strangers.h5ad")}))


def test_perturb_answers_with_uncertainty_and_baselines(
    everything: TestClient, client: TestClient, full: Doors
) -> None:
    gene = Predictor.load(str(full.settings.perturbation)).genes[0]
    body = {"perturbation": gene, "cells": {"where": "cell_type = 'B cell'"}, "context": "left", "most": 3}
    found = everything.post("/v1/perturb", json=body).json()
    assert len(found["genes"]) == 3
    for each in found["genes"]:
        assert each["uncertainty"] > 0
        assert {"control", "mean_delta", "context_mean", "ridge"} <= set(each["baselines"])
    assert "mean_delta" in found["likeness"]
    assert client.post("/v1/perturb", json=body).json()["error"]["code"] == "not_loaded"


def test_what_waits_is_done_together() -> None:
    sizes: list[int] = []

    def doubled(numbers: list[int]) -> list[int | Exception]:
        sizes.append(len(numbers))
        return [ValueError("odd one") if number == 3 else 2 * number for number in numbers]

    async def ask() -> list[int | BaseException]:
        batches: Batches[int, int] = Batches(doubled, most=4)
        return await asyncio.gather(*(batches(number) for number in range(7)), return_exceptions=True)

    answers = asyncio.run(ask())
    assert [answer for answer in answers if not isinstance(answer, Exception)] == [0, 2, 4, 8, 10, 12]
    assert isinstance(answers[3], ValueError)
    assert sum(sizes) == 7
    assert max(sizes) == 4
