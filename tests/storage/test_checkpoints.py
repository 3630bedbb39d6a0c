"""Model directories: fingerprints, copies of remote ones, publishing whole."""

import fcntl
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.checkpoints import fingerprint, local_copy, publish
from storage.errors import InputError
from storage.locations import Location

MODEL = {"config.json": b"{}", "model.safetensors": b"weights", "vocab.json": b'{"A": 1}'}


def write_model(directory: Path) -> None:
    for name, content in MODEL.items():
        (directory / name).write_bytes(content)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYNCYTIUM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def test_published_models_have_one_fingerprint_everywhere(place: Location, tmp_path: Path) -> None:
    publish(write_model, str(place))
    assert {name: place.read(name) for name in place.list()} == MODEL
    (tmp_path / "plain").mkdir()
    write_model(tmp_path / "plain")
    assert fingerprint(str(place)) == fingerprint(tmp_path / "plain")


def test_a_fingerprint_sees_every_byte_of_the_model_and_nothing_else(tmp_path: Path) -> None:
    write_model(tmp_path)
    before = fingerprint(tmp_path)
    (tmp_path / "run.json").write_bytes(b"{}")
    (tmp_path / "README.md").write_bytes(b"hello")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step.pt").write_bytes(b"x")
    assert fingerprint(tmp_path) == before
    for name, content in MODEL.items():
        (tmp_path / name).write_bytes(content[:-1] + b"?")
        assert fingerprint(tmp_path) != before
        (tmp_path / name).write_bytes(content)
    (tmp_path / "vocab.json").rename(tmp_path / "vocabulary.json")
    assert fingerprint(tmp_path) != before


def test_the_towers_of_a_joint_model_are_part_of_it(place: Location) -> None:
    towers = {"config.json": b"{}", "cell/model.safetensors": b"weights", "text/config.json": b"{}"}

    def write(directory: Path) -> None:
        for name, content in towers.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_bytes(content)

    publish(write, str(place))
    before, copy = fingerprint(str(place)), local_copy(str(place))
    assert {name: (copy / name).read_bytes() for name in towers} == towers
    place.put("cell/model.safetensors", b"other weights")
    assert fingerprint(str(place)) != before


def test_a_remote_model_is_fetched_once_and_again_when_it_changes(place: Location, cache: Path) -> None:
    publish(write_model, str(place))
    place.put("checkpoints/step_1/state.pt", b"large")
    copy = local_copy(str(place))
    if place.local is not None:
        assert copy == place.local
        return
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == MODEL
    (copy / "vocab.json").write_bytes(b"kept")
    assert (local_copy(str(place)) / "vocab.json").read_bytes() == b"kept"
    place.put("vocab.json", b'{"ABC": 3}')
    assert (local_copy(str(place)) / "vocab.json").read_bytes() == b'{"ABC": 3}'
    assert sum(path.is_dir() for path in cache.iterdir()) == 2


def test_a_machine_fetches_once(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    if place.local is not None:
        pytest.skip("nothing is fetched")
    publish(write_model, str(place))
    original, fetched = Location.get_file, []

    def get_file_slowly(self: Location, name: str, target: Path) -> None:
        fetched.append(name)
        time.sleep(0.05)
        original(self, name, target)

    monkeypatch.setattr(Location, "get_file", get_file_slowly)
    with ThreadPoolExecutor(4) as actors:
        copies = set(actors.map(local_copy, [str(place)] * 4))
    assert sorted(fetched) == sorted(MODEL)
    assert {path.name for copy in copies for path in copy.iterdir()} == set(MODEL)


def test_two_machines_that_fetch_together_keep_one_copy(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place.local is not None:
        pytest.skip("nothing is fetched")
    publish(write_model, str(place))
    original, rename = Location.get_file, []
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)

    def get_file_while_another_finishes(self: Location, name: str, target: Path) -> None:
        original(self, name, target)
        if not rename:
            rename.append(target)
            local_copy(str(place))

    monkeypatch.setattr(Location, "get_file", get_file_while_another_finishes)
    assert {path.name for path in local_copy(str(place)).iterdir()} == set(MODEL)


def test_publishing_replaces_the_model_and_keeps_the_rest(place: Location) -> None:
    place.put("checkpoints/step", b"kept")
    place.put("cfg.json", b"the configuration of another kind of model")
    publish(write_model, str(place))
    assert place.list() == {"checkpoints/step": 4, **{name: len(content) for name, content in MODEL.items()}}


def test_a_failed_write_publishes_nothing(place: Location) -> None:
    publish(write_model, str(place))

    def fail(directory: Path) -> None:
        (directory / "config.json").write_bytes(b"half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        publish(fail, str(place))
    with pytest.raises(InputError, match="nothing was written"):
        publish(lambda _: None, str(place))
    assert {name: place.read(name) for name in place.list()} == MODEL
    if place.local is not None:
        assert len(list(place.local.iterdir())) == len(MODEL)


def test_the_configuration_is_published_last(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(write_model, str(place))
    original, seen = Location.put_file, []
    assert place.list() == {name: len(content) for name, content in MODEL.items()}

    def watched(self: Location, name: str, source: Path) -> None:
        seen.append((name, place.exists("config.json")))
        original(self, name, source)

    monkeypatch.setattr(Location, "put_file", watched)
    publish(write_model, str(place))
    assert seen == [("model.safetensors", False), ("vocab.json", False), ("config.json", False)]


def test_no_model_is_refused(place: Location, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model directory"):
        local_copy(str(place))
    write_model(tmp_path)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    for name in MODEL:
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="no model directory"):
        fingerprint(tmp_path)
