"""Writers stopped at every moment: by a kill, by an error, by a full disk."""

import errno
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from storage.commits import open_snapshot
from storage.errors import InputError
from storage.locations import Location
from tests.storage.small_datasets import planned, write_all


class Stopped(BaseException):
    """Stands for a kill in the tests that choose its moment."""


def interrupt_at(monkeypatch: pytest.MonkeyPatch, operation: int, *, after: bool) -> None:
    """Stop the writer at its n-th write, just before or just after it took effect."""
    count = iter(range(operation))

    def counted(write: Any) -> Any:
        def call(*arguments: Any) -> Any:
            stop = next(count, None) is None
            if stop and not after:
                raise Stopped
            outcome = write(*arguments)
            if stop:
                raise Stopped
            return outcome

        return call

    for name in ("put", "create", "delete"):
        monkeypatch.setattr(Location, name, counted(getattr(Location, name)))


@pytest.mark.parametrize("after", [False, True])
def test_interrupting_any_write_and_resuming_gives_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    expected_place = Location.of(f"memory://{uuid.uuid4().hex}")
    write_all(expected_place)
    expected = {name: expected_place.read(name) for name in expected_place.list()}
    interrupted = 0
    for operation in range(100):
        place = Location.of(f"memory://{uuid.uuid4().hex}")
        with monkeypatch.context() as patch:
            interrupt_at(patch, operation, after=after)
            try:
                write_all(place)
            except Stopped:
                interrupted += 1
        write_all(place)
        found = {name: place.read(name) for name in place.list() if "probe" not in name}
        assert found == expected, operation
        if operation > interrupted:
            break
    assert interrupted > 10


@pytest.mark.parametrize("operation", range(12))
def test_interrupting_an_overwrite_never_leaves_a_false_record(
    monkeypatch: pytest.MonkeyPatch, operation: int
) -> None:
    place = Location.of(f"memory://{uuid.uuid4().hex}")
    write_all(place)
    with monkeypatch.context() as patch:
        interrupt_at(patch, operation, after=False)
        with pytest.raises(Stopped):
            planned(place, lineage={"seed": 2}, overwrite=True)
    try:
        resumed = write_all(place)  # the old job started again completes what was left of its dataset
    except InputError as refusal:
        assert "no dataset" in str(refusal)  # noqa: PT017
    else:
        assert open_snapshot(resumed.location).verify() == []


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_writers_and_their_successors(tmp_path: Path, kills: int) -> None:
    script = Path(__file__).with_name("killed_writers.py")
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(kills)],
        cwd=script.parents[2],
        env={**os.environ, "PYTHONPATH": str(script.parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"{kills} kills")


@pytest.mark.parametrize("full_at", range(8))
def test_a_full_disk_leaves_no_record_and_the_job_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: int
) -> None:
    dataset, calls, fsync = planned(str(tmp_path)), iter(range(full_at)), os.fsync

    def fsync_until_full(descriptor: int) -> None:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync_until_full)
        with pytest.raises(OSError, match="No space left"):
            write_all(str(tmp_path))
    for record in dataset.records():
        assert all(dataset.location.size(name) == stored.size for name, stored in record.objects.items())
    assert list(tmp_path.rglob("*.tmp")) == []
    write_all(str(tmp_path))
    assert open_snapshot(str(tmp_path)).verify() == []
