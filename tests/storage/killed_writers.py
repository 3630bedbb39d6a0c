"""Kills writers at random moments and looks at what they leave.

test_interruptions.py runs it as a process of its own: the parent imports only the commit protocol and starts
no thread, so a fork costs a millisecond and is safe.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from storage.commits import Dataset, MemberPlan, open_snapshot
from storage.errors import InputError
from storage.snapshots import Stored

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
        write_all(directory)
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


def main(root: Path, kills: int) -> None:
    began = time.monotonic()
    write_all(root / "uninterrupted")
    length = time.monotonic() - began
    expected = contents(root / "uninterrupted")

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
    print(f"{kills} kills, {finished + 1} datasets finished")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
