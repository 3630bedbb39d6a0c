"""A version of the index with a flipped byte is refused by name, and the one before goes on being served."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from engine.serving.api import create_api
from engine.serving.doors import Doors
from engine.serving.placement import Inside
from engine.serving.problems import Problem, of_error
from engine.serving.rooms.cells import CellRoom
from engine.serving.settings import Settings
from storage.errors import DamagedDataset
from storage.index import VectorIndex, versions

ASK = {"like": {"where": "cell_type = 'B cell'"}, "k": 3}


@pytest.fixture
def damaged(served: Settings, tmp_path: Path) -> tuple[Settings, str]:
    """Version 2 has lost two cells, and a byte of what says so is another one than was written."""
    shutil.copytree(served.index, tmp_path / "index")
    versions.delete(VectorIndex.open(str(tmp_path / "index")), np.array([0, 5]))
    new = set((tmp_path / "index").rglob("*.*")) - {
        tmp_path / "index" / found.relative_to(served.index) for found in Path(served.index).rglob("*.*")
    }
    (hurt,) = (path for path in new if "_log" not in path.parts)
    flip(hurt)
    return served.model_copy(update={"index": str(tmp_path / "index")}), hurt.name


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_old_version_stays_served(damaged: tuple[Settings, str], doors: Doors) -> None:
    settings, name = damaged
    room = CellRoom(settings.model_copy(update={"index_version": 1}))
    client = TestClient(create_api(replace(doors, settings=settings, cells=Inside(room))))
    assert client.get("/readyz").json()["refused"] is None
    for wanted in (2, None, 7):
        asyncio.run(room.reconfigure({"index_version": wanted}))
        assert client.post("/v1/search", json=ASK).json()["index_version"] == 1
        refused = client.get("/readyz").json()["refused"]
        assert (name if wanted != 7 else "no version 7") in refused
        assert client.get("/v1/datasets").json()["cells"]["refused"] == refused
    asyncio.run(room.reconfigure({"index_version": 1}))
    assert client.get("/readyz").json()["refused"] is None


def test_a_new_replica_serves_the_newest_sound_version(damaged: tuple[Settings, str]) -> None:
    settings, name = damaged
    facts = CellRoom(settings).facts()
    assert facts["version"] == 1
    assert name in facts["refused"]
    with pytest.raises(DamagedDataset, match=name):
        CellRoom(settings.model_copy(update={"index_version": 2}))


def test_no_sound_version_is_an_error_by_name(damaged: tuple[Settings, str]) -> None:
    settings, name = damaged
    for segment in Path(settings.index).rglob("*.f16"):
        flip(segment)
    with pytest.raises(DamagedDataset, match=name):
        CellRoom(settings)


def test_damage_found_later_is_a_503_that_names_nothing_to_callers() -> None:
    problem = of_error("/v1/search", DamagedDataset("/secret/place/vectors.f16: hash 1, committed 2"))
    assert (problem.status, problem.code) == (503, "damaged")
    assert "/secret" not in problem.detail
    assert isinstance(of_error("/x", Problem(404, "a", "b")), Problem)
