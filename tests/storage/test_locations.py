"""Locations: the same behaviour on local disk, in memory and on S3."""

import errno
import os
import pickle
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import durable_files
from storage.errors import DamagedDataset, InputError
from storage.locations import Location


def test_put_read_list_size_delete(place: Location) -> None:
    place.put("b/two", b"22")
    place.put("one", b"1")
    place.put("b/two", memoryview(b"222"))
    assert place.read("b/two") == b"222"
    assert place.list() == {"b/two": 3, "one": 1}
    assert place.list("b") == {"b/two": 3}
    assert place.size("one") == 1
    assert place.exists("one")
    assert not place.exists("three")
    place.delete("one")
    place.delete("one")
    assert place.list() == {"b/two": 3}
    place.delete_all()
    assert place.list() == {}


def test_a_listing_takes_a_prefix_as_a_folder(place: Location) -> None:
    place.put("X/c/0", b"0")
    place.put("Xylem", b"1")
    assert place.list("X") == {"X/c/0": 1}


def test_missing_objects_raise_file_not_found(place: Location) -> None:
    for read in (
        lambda: place.read("no"),
        lambda: place.read_ranges("no", [(0, 1)]),
        lambda: place.size("no"),
    ):
        with pytest.raises(FileNotFoundError):
            read()
    assert place.list() == {}


def test_listings_see_what_others_wrote(place: Location) -> None:
    assert place.list() == {}
    pickle.loads(pickle.dumps(place)).put("new", b"x")
    assert place.list() == {"new": 1}
    assert 0 <= place.ages()["new"] < 60


def test_read_ranges_keeps_the_order_asked(place: Location) -> None:
    place.put("letters", b"abcdefgh")
    assert place.read_ranges("letters", [(4, 6), (0, 2), (4, 5)]) == [b"ef", b"ab", b"e"]
    assert place.read_ranges("letters", []) == []


def test_a_range_past_the_end_names_the_object(place: Location) -> None:
    place.put("letters", b"abcdefgh")
    with pytest.raises(DamagedDataset, match="letters"):
        place.read_ranges("letters", [(0, 4), (6, 12)])
    with pytest.raises(DamagedDataset, match="letters"):
        place.read_ranges("letters", [(10, 12)])


def test_create_makes_only_one_object(place: Location) -> None:
    assert place.create("record", b"first")
    assert not place.create("record", b"second")
    assert place.read("record") == b"first"


def test_of_racing_creators_one_wins(place: Location) -> None:
    start, wins = threading.Barrier(8), []

    def race(number: int) -> None:
        start.wait()
        if place.create("record", b"%d" % number):
            wins.append(number)

    racers = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [b"%d" % number for number in wins] == [place.read("record")]


def test_child_locations_share_objects_with_their_parent(place: Location) -> None:
    (place / "inner").put("name", b"x")
    assert place.read("inner/name") == b"x"
    assert str(place / "inner") == f"{place}/inner"


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../b"])
def test_names_stay_inside(place: Location, name: str) -> None:
    with pytest.raises(ValueError, match="not a name inside"):
        place.put(name, b"")


def test_probe_accepts_these_stores_and_leaves_nothing(place: Location) -> None:
    place.require_conditional_create()
    assert place.list() == {}


def test_probe_refuses_a_store_that_ignores_the_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type(fsspec.filesystem("memory"))
    original = memory.pipe_file
    monkeypatch.setattr(memory, "pipe_file", lambda self, path, value, **_: original(self, path, value))
    place = Location.of("memory://ignores-conditions")
    with pytest.raises(InputError, match="ignores the create-if-absent condition"):
        place.require_conditional_create()
    assert place.list() == {}


def test_probe_refuses_a_store_without_the_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    def pipe_file(self: object, path: str, value: bytes, mode: str = "overwrite") -> None:
        raise NotImplementedError("mode")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", pipe_file)
    with pytest.raises(InputError, match="no create-if-absent"):
        Location.of("memory://without").require_conditional_create()


def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(InputError, match="hard links"):
        Location.of(tmp_path).create("record", b"x")
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("write", [Location.put, Location.create])
def test_a_full_disk_leaves_the_old_content_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: object
) -> None:
    place = Location.of(tmp_path)
    place.put("kept", b"old")

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        write(place, "kept", b"new")  # type: ignore[operator]
    monkeypatch.undo()
    assert place.read("kept") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_write_that_fails_halfway_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file size stops the write itself in the middle, as a full disk does."""
    place, limits = Location.of(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    place.put("kept", b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            place.put("kept", b"x" * (2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert place.list() == {"kept": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="this system has no files without a name")
@pytest.mark.parametrize("write", [Location.put, Location.create])
def test_a_write_in_progress_has_no_name_that_a_kill_could_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Location, str, bytes], object]
) -> None:
    seen, fsync = [], os.fsync

    def look(descriptor: int) -> None:
        seen.append([path.name for path in tmp_path.iterdir()])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write(Location.of(tmp_path), "object", b"x")
    assert seen[0] == []
    assert (tmp_path / "object").read_bytes() == b"x"
    assert [path.name for path in tmp_path.iterdir()] == ["object"]


def test_a_file_system_without_unnamed_files_gets_temporary_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    place = Location.of(tmp_path)
    place.put("object", b"old")
    place.put("object", b"new")
    assert place.create("record", b"x")
    assert not place.create("record", b"y")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"object": b"new", "record": b"x"}


def test_temporary_files_are_not_objects(tmp_path: Path) -> None:
    place = Location.of(tmp_path)
    place.put("whole", b"x")
    (tmp_path / ".whole.0123.tmp").write_bytes(b"half")
    assert place.list() == {"whole": 1}
    assert list(place.ages(temporary=True)) == [".whole.0123.tmp"]


def test_paths_become_absolute_and_urls_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Location.of("cells").local == tmp_path / "cells"
    assert Location.of(f"file://{tmp_path}/cells") == Location.of("cells")
    assert Location.of("s3://bucket/cells/").root == "s3://bucket/cells"
    assert Location.of("s3://bucket/cells").local is None


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), cuts=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300))))
def test_ranges_are_slices(tmp_path: Path, content: bytes, cuts: list[tuple[int, int]]) -> None:
    durable_files.replace(tmp_path / "object", content)
    ranges = [(min(cut), min(max(cut), len(content))) for cut in cuts if min(cut) <= len(content)]
    assert Location.of(tmp_path).read_ranges("object", ranges) == [content[a:b] for a, b in ranges]
