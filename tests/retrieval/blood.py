"""Real blood cells in a store, a joint model trained on half of them, and their embeddings by it."""

from typing import NamedTuple

import anndata
import pytest

from engine.streaming.inputs import Inputs
from engine.streaming.joint_embeddings import joint_product
from engine.streaming.recipe import Recipe
from tests.retrieval.joint_index import trained_joint
from tests.streaming.in_process import encode_here
from tests.streaming.inputs import small_counts

__all__ = ["blood", "small_counts"]

TYPES = (
    "naive CD4+ T cell",
    "memory CD4+ T cell",
    "CD14+ monocyte",
    "B cell",
    "CD8+ T cell",
    "FCGR3A+ monocyte",
    "natural killer cell",
    "dendritic cell",
    "platelet",
)


class Blood(NamedTuple):
    """300 cells, half of them known to the model; cell 17 is empty. counts: as they went into the store."""

    store: str
    joint: str
    embeddings: str
    counts: anndata.AnnData


@pytest.fixture(scope="session")
def blood(small_counts: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Blood:
    from storage.ingest import ingest

    folder = tmp_path_factory.mktemp("blood")
    cells = small_counts.copy()
    cells.obs["caption"] = ["a sample of " + kind for kind in cells.obs["cell_type"].astype(str)]
    cells.obs["donor"] = [f"D{number % 5}" for number in range(cells.n_obs)]
    cells.write_h5ad(folder / "pbmc.h5ad")
    ingest([str(folder / "pbmc.h5ad")], str(folder / "store"))
    trained_joint(cells, folder)
    inputs = Inputs.open(str(folder / "store"), str(folder / "joint"))
    encode_here(inputs, joint_product(inputs.model), folder / "embeddings", Recipe(128))
    return Blood(str(folder / "store"), str(folder / "joint"), str(folder / "embeddings"), cells)
