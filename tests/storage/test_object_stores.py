"""An object store in trouble: what passes is waited out, what stays is an error that names the object."""

import uuid

import fsspec
import pytest

from storage import object_stores, retries
from storage.commits import open_snapshot
from storage.errors import StoreUnavailable
from storage.locations import Location
from tests.storage.faulty_store import FaultyStore
from tests.storage.small_datasets import write_all

# A throttling, flaky, slow store: more trouble than any real one makes for long. A fifth of all requests
# fails; with twice that one call of the driver in a hundred would fail ten times running, and so this test.
TROUBLE = {"SlowDown": 0.1, "InternalError": 0.02, "reset": 0.02, "lost": 0.04, "cut": 0.02, "slow": 0.05}


@pytest.fixture
def place(faulty_store: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> Location:
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.001)
    faulty_store.slow_seconds = 0.01
    return Location.of(f"{faulty_store.url}/{uuid.uuid4().hex}")


def test_every_operation_gets_through_trouble(place: Location, faulty_store: FaultyStore) -> None:
    faulty_store.trouble = TROUBLE
    for number in range(4):
        content = bytes([number]) * 1_000
        place.put(f"put/{number}", content)
        assert place.create(f"made/{number}", content)
        assert not place.create(f"made/{number}", b"other")
        assert place.read(f"put/{number}") == content
        ranges = [(start, start + 10) for start in range(0, 300, 10)]
        assert place.read_ranges(f"made/{number}", ranges) == [content[:10]] * 30
        assert place.size(f"put/{number}") == 1_000
        assert not place.exists(f"put/no {number}")
    assert len(place.list()) == 8
    place.delete("put/0")
    assert not place.exists("put/0")
    place.delete_all()
    assert place.list() == {}
    assert faulty_store.met["SlowDown"] > 5
    assert faulty_store.met["lost"] > 0


def test_a_dataset_written_through_trouble_is_the_same(place: Location, faulty_store: FaultyStore) -> None:
    write_all(place / "calm")
    faulty_store.trouble = TROUBLE
    write_all(place / "trouble")
    faulty_store.calm()
    expected, found = place / "calm", place / "trouble"
    assert {name: found.read(name) for name in found.list()} == {
        name: expected.read(name) for name in expected.list()
    }
    assert open_snapshot(found).verify() == []


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("fault", ["lost", "SlowDown", "InternalError", "reset"])
def test_the_maker_of_an_object_learns_it_whatever_happens_to_the_answer(
    place: Location, faulty_store: FaultyStore, fault: str, times: int
) -> None:
    faulty_store.script.extend([fault] * times)
    assert place.create("record", b"mine")
    assert place.read("record") == b"mine"


def test_a_loser_learns_it_too(place: Location, faulty_store: FaultyStore) -> None:
    place.put("record", b"theirs")
    for content in (b"mine", b"theirs"):
        faulty_store.script.append("lost")
        assert not place.create("record", content)
    assert place.read("record") == b"theirs"


def test_only_ranges_that_failed_are_read_again(place: Location, faulty_store: FaultyStore) -> None:
    place.put("letters", b"abcdefgh")
    faulty_store.calm()
    faulty_store.script.append("SlowDown")
    assert place.read_ranges("letters", [(0, 1), (2, 3), (4, 5), (6, 7)]) == [b"a", b"c", b"e", b"g"]
    assert faulty_store.met["none"] == 4


@pytest.mark.parametrize("fault", ["SlowDown", "reset"])
def test_a_store_that_stays_down_is_named(
    place: Location, faulty_store: FaultyStore, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 2)
    # Between requests of its own the driver waits for seconds.
    monkeypatch.setattr(object_stores, "_S3_REQUESTS_OF_MANY", 2)
    place.put("object", b"x")
    faulty_store.trouble = {fault: 1.0}
    for request in (
        lambda: place.read("object"),
        lambda: place.read_ranges("object", [(0, 1)]),
        lambda: place.put("object", b"y"),
        lambda: place.create("record", b"y"),
        lambda: place.exists("object"),
        lambda: place.list(),
    ):
        with pytest.raises(StoreUnavailable, match=f"{place}.*run the same command again"):
            request()


def test_what_will_not_pass_is_not_asked_twice(place: Location, faulty_store: FaultyStore) -> None:
    with pytest.raises(FileNotFoundError):
        object_stores.read(f"s3://no-such-bucket-{uuid.uuid4().hex}/object")
    before = sum(faulty_store.met.values())
    with pytest.raises(FileNotFoundError):
        place.read("no")
    assert sum(faulty_store.met.values()) - before <= 3  # is it an object, is it a prefix


def test_a_prefix_that_is_listed_as_a_folder_is_no_object(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type(fsspec.filesystem("memory"))

    def find(self: object, top: str, **_: object) -> dict[str, dict[str, object]]:
        return {top: {"name": top, "size": 0, "type": "directory"}}

    monkeypatch.setattr(memory, "find", find)
    assert Location.of("memory://appearing").list() == {}
