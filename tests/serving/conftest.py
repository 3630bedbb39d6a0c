"""Fixtures of the serving tests: real blood cells behind doors in this process, without a cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import pytest
from fastapi.testclient import TestClient
from ray import serve

from engine.retrieval.phrases import build_bank
from engine.retrieval.texts import Texts
from engine.serving.api import create_api
from engine.serving.doors import Doors
from engine.serving.rooms.cells import CellRoom
from engine.serving.rooms.counts import CountRoom
from engine.serving.rooms.phrases import PhraseRoom
from engine.serving.rooms.selections import SelectionRoom
from engine.serving.rooms.texts import TextRoom
from engine.serving.settings import Settings
from storage.locations import Location
from tests.retrieval.joint_index import index_of, stored, trained_joint


@pytest.fixture(scope="session")
def served(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A store, a joint model and an index of it."""
    folder = tmp_path_factory.mktemp("served")
    cells = anndata.read_h5ad(shared / "data" / "pbmc3k.h5ad")[:700].copy()
    cells.obs = cells.obs[["cell_type", "tissue", "n_genes"]]
    store = stored(cells, folder)
    trained_joint(cells, folder)
    index = index_of(store, folder / "joint", folder)
    terms = {"types": sorted(set(cells.obs["cell_type"])), "organs": ["blood", "liver", "plasma"]}
    build_bank(terms, Texts.of_index(index), Location.of(folder / "phrases"))
    return Settings(
        index=str(folder / "index"),
        cells=str(store),
        phrases=str(folder / "phrases"),
        limits={"requests_per_minute": 100_000},
    )


def doors_to(settings: Settings) -> Doors:
    def handle(room: type) -> Any:
        return serve.run(serve.deployment(room).bind(settings), name=room.__name__, _local_testing_mode=True)

    return Doors(
        settings,
        cells=handle(CellRoom),
        selections=handle(SelectionRoom),
        texts=handle(TextRoom),
        counts=handle(CountRoom),
        phrases=handle(PhraseRoom),
    )


@pytest.fixture(scope="session")
def doors(served: Settings) -> Doors:
    return doors_to(served)


@pytest.fixture(scope="session")
def client(doors: Doors) -> Iterator[TestClient]:
    with TestClient(create_api(doors), raise_server_exceptions=False) as found:
        yield found
