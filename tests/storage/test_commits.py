"""The commit protocol: planned, raced for, refused, finished, collected."""

import os
import pickle
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest

from storage.commits import MemberPlan, open_snapshot
from storage.errors import DamagedDataset, InputError, LineageMismatch
from storage.locations import Location
from tests.storage.small_datasets import LINEAGE, MEMBERS, planned, write, write_all


def test_a_dataset_from_plan_to_snapshot(place: Location) -> None:
    dataset = planned(place)
    assert dataset.pending() == MEMBERS
    write(dataset, "01")
    assert [member.key for member in dataset.pending()] == ["00", "02"]
    with pytest.raises(InputError, match=r"not finished: 1 of 3 members"):
        open_snapshot(place)
    with pytest.raises(InputError, match=r"not finished: 1 of 3 members"):
        dataset.finish()
    assert not dataset.is_complete
    snapshot = write_all(place).finish()
    assert dataset.is_complete
    assert [record.key for record in snapshot.members] == ["00", "01", "02"]
    assert snapshot.facts == {"rows": 30}
    assert snapshot.read("zarr.json") == b"{}"
    assert snapshot.lineage["hooks"] == ["a", "b"]
    snapshot.check_sizes()
    assert snapshot.verify() == []


def test_the_same_work_has_the_same_id_everywhere(place: Location, tmp_path: Path) -> None:
    write_all(place)
    write_all(str(tmp_path / "other"))
    ours, theirs = open_snapshot(place), open_snapshot(str(tmp_path / "other"))
    assert ours.dataset_id == theirs.dataset_id
    assert ours.lineage_id == theirs.lineage_id


def test_finishing_again_changes_nothing(place: Location) -> None:
    dataset = write_all(place)
    before = {name: place.read(name) for name in place.list()}
    dataset.finish({"zarr.json": b"other"})
    write_all(place)
    assert {name: place.read(name) for name in place.list()} == before


def test_another_lineage_is_refused_with_both_printed(place: Location) -> None:
    write_all(place)
    with pytest.raises(LineageMismatch) as refusal:
        planned(place, lineage={**LINEAGE, "seed": 2, "precision": "bf16", "tokens": {"max": 6}})
    lines = {line.split()[1]: line.split() for line in str(refusal.value).splitlines() if "* " in line[:5]}
    assert lines["seed"] == ["*", "seed", "1", "2"]
    assert lines["tokens.max"] == ["*", "tokens.max", "5", "6"]
    assert lines["precision"] == ["*", "precision", "(absent)", '"bf16"']
    assert "model" not in lines
    assert 'model       "abc"' in str(refusal.value)
    assert open_snapshot(place).verify() == []


def test_the_same_lineage_in_other_members_is_refused(place: Location) -> None:
    planned(place)
    with pytest.raises(LineageMismatch, match=r"3 members .* asked for 2 members"):
        planned(place, members=MEMBERS[:2])


def test_overwrite_replaces_a_dataset(place: Location) -> None:
    write_all(place)
    dataset = planned(place, lineage={"seed": 2}, overwrite=True)
    assert dataset.pending() == MEMBERS
    assert list(place.list()) == ["_log/00000000.json"]


def test_a_store_that_ignores_conditions_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = type(fsspec.filesystem("memory"))
    put = memory.pipe_file
    monkeypatch.setattr(memory, "pipe_file", lambda self, path, value, **_: put(self, path, value))
    place = Location.of(f"memory://{uuid.uuid4().hex}")
    with pytest.raises(InputError, match="ignores the create-if-absent condition"):
        planned(place)
    assert place.list() == {}


def test_finishing_removes_torn_files_of_the_killed(tmp_path: Path) -> None:
    for name, age in (("old", 7200), ("young", 60)):
        torn = tmp_path / f".{name}.0123.tmp"
        torn.write_bytes(b"half")
        os.utime(torn, (time.time() - age, time.time() - age))
    write_all(str(tmp_path))
    assert [path.name for path in tmp_path.glob(".*")] == [".young.0123.tmp"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_files_are_never_touched(place: Location, overwrite: bool) -> None:
    place.put("thesis.tex", b"years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        planned(place, overwrite=overwrite)
    assert place.list() == {"thesis.tex": 13}


def test_a_worker_of_an_overwritten_plan_is_refused(place: Location) -> None:
    zombie = planned(place)
    writer = zombie.member("00")
    planned(place, lineage={"seed": 2}, overwrite=True)
    writer.put("a/00", b"old")
    with pytest.raises(LineageMismatch, match="this worker was started for"):
        writer.commit()
    with pytest.raises(LineageMismatch):
        pickle.loads(pickle.dumps(zombie))
    assert len(planned(place, lineage={"seed": 2}).pending()) == 3


def test_two_workers_on_one_member_commit_it_once(place: Location) -> None:
    dataset, start, records = planned(place), threading.Barrier(2), []

    def work() -> None:
        writer = dataset.member("00")
        start.wait()
        writer.put("a/00", b"same")
        start.wait()
        records.append(writer.commit({"rows": 1}))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(records) == 2
    assert records[0] == records[1] == dataset.record("00")


def test_a_second_worker_with_other_bytes_is_refused(place: Location) -> None:
    dataset = planned(place)
    first, second, late = dataset.member("00"), dataset.member("00"), dataset.member("01")
    second.put("a/00", b"theirs")
    first.put("a/00", b"mine!!")
    record = first.commit({"rows": 1})
    with pytest.raises(DamagedDataset, match=r"a/00.*versions differ"):
        second.commit({"rows": 1})
    assert dataset.record("00") == record
    assert place.read("a/00") == b"mine!!"
    with pytest.raises(DamagedDataset, match="a/00"):
        dataset.member("00").put("a/00", b"third!")
    assert place.read("a/00") == b"mine!!"
    late.put("a/01", b"x")
    late.commit({"rows": 1})
    again = dataset.member("01")
    again.put("a/01", b"x")
    with pytest.raises(DamagedDataset, match="facts"):
        again.commit({"rows": 2})


def test_misuse(tmp_path: Path) -> None:
    dataset = planned(str(tmp_path))
    with pytest.raises(KeyError, match="99"):
        dataset.member("99")
    with pytest.raises(ValueError, match="commit protocol"):
        dataset.member("00").put("_log/member-00.json", b"")
    with pytest.raises(ValueError, match="distinct file names"):
        planned(str(tmp_path / "x"), members=[MemberPlan("a/b")])
    with pytest.raises(ValueError, match="distinct file names"):
        planned(str(tmp_path / "x"), members=[MemberPlan("a"), MemberPlan("a")])
    with pytest.raises(ValueError, match="JSON"):
        planned(str(tmp_path / "x"), lineage={"scale": float("nan")})


@pytest.fixture
def littered(place: Location) -> Location:
    dataset = planned(place)
    write(dataset, "00")
    dataset.member("01").put("a/01", b"never committed")
    place.put("run.json", b"{}")
    dataset.claim("01", "dead", -1)
    if place.local is not None:
        (place.local / "a" / ".01.0000.tmp").write_bytes(b"torn")
    return place


def test_garbage_is_what_no_record_names(littered: Location) -> None:
    dataset = planned(littered)
    assert dataset.collect_garbage(3600) == []
    torn = ["a/.01.0000.tmp"] if littered.local is not None else []
    assert dataset.collect_garbage(-1) == ["_lease/01/0", *torn, "a/01"]
    assert sorted(littered.list()) == [
        "_log/00000000.json",
        "_log/member-00.json",
        "a/00",
        "b/00",
        "run.json",
    ]
    write_all(littered)
    assert dataset.collect_garbage(-1) == []
    assert open_snapshot(littered).verify() == []


def test_datasets_and_snapshots_travel_by_location(place: Location) -> None:
    dataset = pickle.loads(pickle.dumps(planned(place)))
    assert dataset.members == MEMBERS
    write_all(place)
    snapshot = open_snapshot(place, "test")
    assert len(pickle.dumps(snapshot)) < 400
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot


def test_committing_a_member_does_not_read_the_whole_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [MemberPlan(f"{number:05d}", {"start": number}) for number in range(20_000)]
    dataset = planned(str(tmp_path), members=members)
    pickled, amounts = pickle.dumps(dataset.member("00001")), []
    pickle.loads(pickled)  # the first one in a process opens the dataset
    for name in ("read", "read_ranges"):
        original = getattr(Location, name)

        def counted(*arguments: Any, original: Any = original) -> Any:
            found = original(*arguments)
            amounts.append(len(found) if isinstance(found, bytes) else sum(map(len, found)))
            return found

        monkeypatch.setattr(Location, name, counted)
    writer = pickle.loads(pickled)
    writer.put("a/00001", b"x")
    writer.commit()
    assert sum(amounts) < 200_000 < (tmp_path / "_log" / "00000000.json").stat().st_size


def test_a_lineage_longer_than_the_head_of_a_plan(tmp_path: Path) -> None:
    dataset = planned(str(tmp_path), lineage={"genes": [f"ENSG{number:011d}" for number in range(10_000)]})
    write(dataset, "00")
    assert len(list(dataset.records())) == 1
    planned(str(tmp_path), lineage={"genes": []}, overwrite=True)
    with pytest.raises(LineageMismatch):
        dataset.require_current()
