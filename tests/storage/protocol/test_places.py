"""Taking a place for a dataset, and knowing later whose it is."""

import errno
import os
from pathlib import Path

import pytest

from storage.errors import InputError
from storage.locations import Location
from storage.protocol import places
from tests.storage.small_datasets import planned


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_place_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def create(self: Location, name: str, content: bytes) -> bool:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Location, "create", create)
    with pytest.raises(InputError, match=f"cannot be written .{os.strerror(number)}.; give --output"):
        planned(tmp_path / "new")


def test_trouble_that_is_not_the_place_s_is_no_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(self: Location, name: str, content: bytes) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Location, "create", create)
    with pytest.raises(OSError, match="Input/output"):
        planned(tmp_path / "new")


def test_a_place_is_planned_for_one_lineage(near_place: Location) -> None:
    assert not places.is_planned(near_place, "0" * 32)
    dataset = planned(near_place)
    assert places.is_planned(near_place, dataset.lineage_id)
    assert not places.is_planned(near_place, "0" * 32)
    places.clear(near_place)
    assert not places.is_planned(near_place, dataset.lineage_id)
    assert near_place.list() == {}
