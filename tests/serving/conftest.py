"""Fixtures of the serving tests: real blood cells behind doors in this process, without a cluster."""

from collections.abc import Iterator
from dataclasses import replace
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
from engine.serving.rooms.features import FeatureRoom
from engine.serving.rooms.perturbations import PerturbationRoom
from engine.serving.settings import Settings
from engine.training.recipes.perturbation import plan
from engine.training.recipes.perturbation.finish import publish
from engine.training.recipes.perturbation.measured import ScreenSource
from storage.cells import CellStore
from storage.ingest import IngestOptions, ingest
from storage.locations import Location
from tests.interpret.enrichment.example import write_features
from tests.perturbation.screens import GENES, small_screen
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
        # What is answered is compared with the library's answers, on whatever CPU.
        text_precision="fp32",
    )


@pytest.fixture(scope="session")
def doors(served: Settings) -> Doors:
    return Doors(served, **{name: Inside(room(served)) for name, room in rooms_of(served).items()})


SIZES = {
    "d_model": 16,
    "n_layers": 1,
    "d_state": 8,
    "headdim": 8,
    "condition_dim": 16,
    "gene_identity_dim": 8,
}


def screen_model(store: str, folder: Path, held_out: str) -> str:
    """A model of perturbations as small as they come."""
    source = ScreenSource(store, "target", "non-targeting", "line")
    recipe = plan(source, "perturbation", held_out=[held_out], sizes=SIZES, n_codes=4)
    folder.mkdir()
    publish(recipe, list(recipe.build(0).models), folder, 0)
    return str(folder)


def screen_of(genes: list[str], folder: Path) -> str:
    """The small screen as a store, with these genes for its own."""
    cells, renamed = small_screen(), dict(zip(GENES, genes, strict=True))
    cells.var_names = genes
    cells.obs["target"] = [
        "+".join(renamed.get(gene, gene) for gene in label.split("+")) for label in cells.obs["target"]
    ]
    cells.write_h5ad(folder / "screen.h5ad")
    ingest([str(folder / "screen.h5ad")], str(folder / "screen"), IngestOptions(gene_id_key="index"))
    return str(folder / "screen")


@pytest.fixture(scope="session")
def full(doors: Doors, tmp_path_factory: pytest.TempPathFactory) -> Doors:
    """Every room is loaded; the perturbed genes are genes of the cells."""
    folder = tmp_path_factory.mktemp("full")
    genes = [str(name) for name in CellStore.open(doors.settings.cells).genes["gene_name"][: len(GENES)]]
    settings = doors.settings.model_copy(
        update={
            "features": str(write_features(folder / "features")),
            "perturbation": screen_model(screen_of(genes, folder), folder / "perturbation", genes[1]),
            "feedback": str(folder / "feedback"),
        }
    )
    rooms = {"features": FeatureRoom(settings), "perturbations": PerturbationRoom(settings)}
    return replace(doors, settings=settings, **{name: Inside(room) for name, room in rooms.items()})


@pytest.fixture(scope="session")
def everything(full: Doors) -> Iterator[TestClient]:
    """A client of every route there is."""
    with TestClient(create_api(full), raise_server_exceptions=False) as found:
        yield found


@pytest.fixture(scope="session")
def client(doors: Doors) -> Iterator[TestClient]:
    with TestClient(create_api(doors), raise_server_exceptions=False) as found:
        yield found
