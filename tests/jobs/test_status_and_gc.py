"""`syncytium status` and `syncytium gc` on a place with datasets."""

import json
from pathlib import Path

import pytest

from jobs import gc, status
from storage.commits import open_snapshot
from tests.storage.small_datasets import planned, write_all


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_all(str(tmp_path / "cells"))
    planned(str(tmp_path / "cache"), lineage={"cells": open_snapshot(tmp_path / "cells").dataset_id})
    planned(str(tmp_path / "trial"))
    return tmp_path


def test_status(place: Path, capsys: pytest.CaptureFixture[str]):
    assert status.main([str(place), "--json"]) == 0
    *lines, record = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cache: test, unfinished, 0/3 members, ")
    assert lines[0].endswith("from cells")
    assert lines[1].startswith("cells: test, finished, 3/3 members, ")
    assert json.loads(record)["facts"]["datasets"][0]["made_from"] == ["cells"]


def test_gc_says_before_it_does(place: Path, capsys: pytest.CaptureFixture[str]):
    assert gc.main([str(place), "--keep", "cache"]) == 0
    assert "not needed: trial" in capsys.readouterr().out
    assert (place / "trial" / "_log").exists()
    assert gc.main([str(place), "--keep", "cache", "--delete"]) == 0
    assert "removed: trial" in capsys.readouterr().out
    assert not (place / "trial" / "_log").exists()
    assert (place / "cells" / "a").exists()


def test_gc_of_everything_is_refused(place: Path, capsys: pytest.CaptureFixture[str]):
    assert gc.main([str(place), "--delete"]) == 2
    assert "--keep is missing" in capsys.readouterr().err
    assert (place / "trial" / "_log").exists()


def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert status.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no datasets below {tmp_path}\n"
