"""Fixtures of the serving tests: real blood cells behind doors in this process, without a cluster."""

from collections.abc import Iterator
from pathlib import Path

import anndata
import pytest
from fastapi.testclient import TestClient

from engine.retrieval.phrases import build_bank
from engine.retrieval.texts import Texts
from engine.serving.api import create_api
from engine.serving.application import rooms_of
from engine.serving.doors import Doors
from engine.serving.placement import Inside
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


@pytest.fixture(scope="session")
def doors(served: Settings) -> Doors:
    return Doors(served, **{name: Inside(room(served)) for name, room in rooms_of(served).items()})


@pytest.fixture(scope="session")
def client(doors: Doors) -> Iterator[TestClient]:
    with TestClient(create_api(doors), raise_server_exceptions=False) as found:
        yield found
