"""Reading a dataset: what is damaged, missing or of another format is an error by name."""

from typing import Any

import pytest
import xxhash

from storage.commits import Dataset, open_snapshot
from storage.errors import DamagedDataset, InputError
from storage.locations import Location
from storage.protocol.snapshots import canonical, seal
from tests.storage.small_datasets import MEMBERS, planned, write, write_all


@pytest.mark.parametrize("name", ["a/01", "b/02", "zarr.json"])
def test_damage_is_an_error_by_name(place: Location, name: str) -> None:
    write_all(place)
    snapshot, whole = open_snapshot(place), place.read(name)

    place.put(name, whole[:-1])
    with pytest.raises(DamagedDataset, match=name):
        snapshot.check_sizes()
    with pytest.raises(DamagedDataset, match=name):
        snapshot.read(name)
    assert [problem.split(":")[0] for problem in snapshot.verify()] == [name]

    place.put(name, bytes([whole[0] ^ 1]) + whole[1:])
    snapshot.check_sizes()
    with pytest.raises(DamagedDataset, match=name):
        snapshot.read(name)
    assert [problem.split(":")[0] for problem in snapshot.verify()] == [name]

    place.delete(name)
    with pytest.raises(DamagedDataset, match=f"{name}: missing"):
        snapshot.check_sizes()
    with pytest.raises(DamagedDataset, match=f"{name}: missing"):
        snapshot.read(name)
    with pytest.raises(DamagedDataset, match=f"{name}: missing"):
        snapshot.read_ranges(name, [(0, 1)])
    assert snapshot.verify() == [f"{name}: missing"]


@pytest.mark.parametrize("name", ["_log/00000000.json", "_log/member-01.json", "_log/snapshot-00000001.json"])
def test_a_damaged_log_is_an_error_by_name(place: Location, name: str) -> None:
    dataset = write_all(place)
    content = place.read(name)

    def read_log() -> None:
        Dataset.open(place)
        list(dataset.records())
        open_snapshot(place)

    for damaged in (
        content.replace(b"test", b"tesT").replace(b"rows", b"rowS"),
        content[:40],
        b"[1]",
        b"\xff",
    ):
        place.put(name, damaged)
        with pytest.raises(DamagedDataset, match=name):
            read_log()


def test_a_log_of_a_later_format_is_refused(place: Location) -> None:
    write_all(place)
    place.put("_log/snapshot-00000001.json", seal({}).replace(b'"format":1', b'"format":9'))
    with pytest.raises(DamagedDataset):
        open_snapshot(place)
    body = {"format": 9}
    place.put("_log/snapshot-00000001.json", canonical({**body, "xxh3": _hash(body)}))
    with pytest.raises(InputError, match="format 9"):
        open_snapshot(place)


def _hash(body: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(canonical(body))


def test_an_object_that_goes_missing_before_the_end_is_noticed(place: Location) -> None:
    dataset = planned(place)
    for member in MEMBERS:
        write(dataset, member.key)
    place.delete("b/01")
    with pytest.raises(DamagedDataset, match="b/01"):
        dataset.finish()
    writer = planned(place / "second").member("00")
    writer.put("a/00", b"x")
    (place / "second").delete("a/00")
    with pytest.raises(DamagedDataset, match="a/00: gone"):
        writer.commit()


def test_places_without_a_dataset(place: Location) -> None:
    with pytest.raises(InputError, match="no dataset here"):
        open_snapshot(place)
    with pytest.raises(InputError, match="no dataset here"):
        Dataset.open(place)
    write_all(place)
    with pytest.raises(InputError, match="kind 'test'; expected 'cells'"):
        open_snapshot(place, "cells")
