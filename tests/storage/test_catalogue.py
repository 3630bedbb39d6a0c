"""Datasets below one place: found, told apart by state, and kept by lineage."""

from pathlib import Path

import pytest

from storage import catalogue
from storage.commits import open_snapshot
from storage.errors import InputError
from tests.storage.small_datasets import planned, write, write_all


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """cells -> cache -> features, cells -> old/cache; one unfinished, one that somebody writes."""
    write_all(str(tmp_path / "cells"))
    for path, source in (("cache", "cells"), ("old/cache", "cells"), ("features", "cache")):
        lineage = {"name": path, "inputs": {source: [open_snapshot(tmp_path / source).dataset_id]}}
        dataset = planned(str(tmp_path / path), lineage=lineage)
        for member in dataset.pending():
            write(dataset, member.key)
        dataset.finish({}, {})
    write(planned(str(tmp_path / "given up"), lineage={"name": "given up"}), "00")
    now = planned(str(tmp_path / "now"), lineage={"name": "now"})
    assert now.claim("00", owner="me", seconds=60)
    (tmp_path / "notes.txt").write_text("no dataset")
    return tmp_path


def test_finds_them_all(street: Path):
    entries = catalogue.datasets(street)
    assert {entry.path: (entry.state, entry.committed, entry.planned) for entry in entries} == {
        "cache": ("finished", 3, 3),
        "cells": ("finished", 3, 3),
        "features": ("finished", 3, 3),
        "given up": ("unfinished", 1, 3),
        "now": ("being written", 0, 3),
        "old/cache": ("finished", 3, 3),
    }
    by_path = {entry.path: entry for entry in entries}
    assert [source.path for source in catalogue.made_from(by_path["features"], entries)] == ["cache"]
    assert by_path["cells"].size == sum(
        file.stat().st_size for file in (street / "cells").rglob("*") if file.is_file()
    )


def test_keeps_what_others_were_made_from(street: Path):
    entries = catalogue.datasets(street)
    garbage = catalogue.unneeded(entries, ["features/"])
    assert [entry.path for entry in garbage] == ["given up", "old/cache"]
    assert [entry.path for entry in catalogue.unneeded(entries, ["cells", "given up"])] == [
        "cache",
        "features",
        "old/cache",
    ]
    for entry in garbage:
        catalogue.remove(entry)
    assert [entry.path for entry in catalogue.datasets(street)] == ["cache", "cells", "features", "now"]
    assert (street / "notes.txt").exists()


def test_a_dataset_inside_another_keeps_its_folder(tmp_path: Path):
    write_all(str(tmp_path / "outer"))
    write_all(str(tmp_path / "outer" / "inner"))
    assert catalogue.unneeded(catalogue.datasets(tmp_path), ["outer/inner"]) == []


def test_a_lease_that_ran_out_is_nobodys(tmp_path: Path):
    assert planned(str(tmp_path)).claim("00", owner="me", seconds=-1)
    (entry,) = catalogue.datasets(tmp_path)
    assert (entry.path, entry.state) == ("", "unfinished")


def test_what_is_to_stay_must_be_there(street: Path):
    with pytest.raises(InputError, match="--keep featurs: no such dataset; there are cache, cells"):
        catalogue.unneeded(catalogue.datasets(street), ["featurs"])
