"""Kills writers at random moments and looks at what they leave.

test_interruptions.py runs it as a process of its own: the parent imports only the commit protocol and starts
no thread, so a fork costs a millisecond and is safe.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from storage.commits import Dataset, MemberPlan, open_snapshot
from storage.errors import InputError
from storage.protocol.snapshots import Stored

MEMBERS = [MemberPlan(f"{number:02d}", {"number": number}) for number in range(5)]


def write_all(directory: Path) -> None:
    """The job: plan or resume, write what is pending, finish."""
    dataset = Dataset.plan(str(directory), kind="test", lineage={"seed": 1}, members=MEMBERS)
    for member in dataset.pending():
        number = member.facts["number"]
        writer = dataset.member(member.key)
        for part in "ab":
            writer.put(f"{part}/{member.key}", random.Random(f"{number}{part}").randbytes(100_000 + number))
        writer.commit({"rows": number})
    if not dataset.is_complete:
        dataset.finish({"zarr.json": b"{}", "obs/0": b"\0" * 1000}, {"rows": 10})


def contents(directory: Path) -> dict[str, bytes]:
    """Everything a reader can see; torn temporary files are not part of a dataset."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.suffix != ".tmp")
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def start(directory: Path) -> int:
    """A child that writes, as a process of its own; 0 is never returned."""
    child = os.fork()
    if child == 0:
        try:
            write_all(directory)
        except BaseException:  # noqa: BLE001 - a fork of the parent must not go on as the parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def require_truth(directory: Path) -> None:
    """Whatever has a record is whole, and a dataset that opens is whole."""
    try:
        dataset = Dataset.open(str(directory))
    except InputError:
        assert not list(directory.rglob("member-*.json")), "a record without a plan"
        return
    for record in dataset.records():
        for name, stored in record.objects.items():
            assert Stored.of(dataset.location.read(name)) == stored, name
    if dataset.is_complete:
        assert open_snapshot(dataset.location).verify() == []


def kill_and_resume(root: Path, kills: int, length: float, expected: dict[str, bytes]) -> int:
    """Kill writer after writer within the time a whole run takes; returns how many datasets they finished."""
    chance, finished, directory = random.Random(0), 0, root / "0"
    for _ in range(kills):
        child = start(directory)
        time.sleep(chance.uniform(0, length))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        require_truth(directory)
        if (directory / "_log" / "snapshot-00000001.json").exists():
            assert contents(directory) == expected
            finished += 1
            directory = root / str(finished)
    write_all(directory)
    assert contents(directory) == expected
    return finished + 1


def race(root: Path, races: int, length: float, expected: dict[str, bytes]) -> None:
    """Three processes write the same dataset at once, and one of them is killed."""
    for number in range(races):
        directory = root / f"race {number}"
        children = [start(directory) for _ in range(3)]
        time.sleep(random.Random(number).uniform(0, length))
        os.kill(children[0], signal.SIGKILL)
        endings = [os.waitpid(child, 0)[1] for child in children]
        assert endings[1:] == [0, 0], endings
        assert contents(directory) == expected


def main(root: Path, kills: int) -> None:
    began = time.monotonic()
    write_all(root / "uninterrupted")
    length = time.monotonic() - began
    expected = contents(root / "uninterrupted")
    finished = kill_and_resume(root, kills, length, expected)
    race(root, kills // 20, length, expected)
    print(f"{kills} kills, {finished} datasets finished")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
