"""What else goes wrong around a run of `cache`: the disk, the store, a member that kills whoever encodes it.

Each run ends complete and as if nothing had happened, or with an error that says what to do and every
committed member intact.
"""

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import xxhash

from storage.commits import Dataset
from storage.locations import Location
from storage.protocol.snapshots import Stored
from tests.chaos.cache_runs import cache_command, finish, start, wait_for_members
from tests.storage.faulty_store import FaultyStore
from tests.streaming.in_process import hashes

pytestmark = pytest.mark.slow

TROUBLE = {"SlowDown": 0.15, "InternalError": 0.03, "reset": 0.03, "lost": 0.03, "cut": 0.03, "slow": 0.1}


def intact_members(output: Path | str) -> int:
    """How many members are committed; each of their objects holds what the record says."""
    records = list(Dataset.open(str(output)).records())
    for record in records:
        for name, stored in record.objects.items():
            assert Stored.of(Location.of(str(output)).read(name)) == stored, name
    return len(records)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))
    return filler


def test_the_disk_becomes_full(small_store, tahoe_model, small_disk, quiet, one_ray):
    output = small_disk / "cache"
    command = cache_command(small_store, tahoe_model, output, actors=1, address=one_ray)
    running = start(command)
    wait_for_members(output, running, 2)
    filler = fill(small_disk)
    code, messages = finish(running)
    assert code == 1, messages
    assert f"syncytium cache failed: {output}: " in messages
    assert "No space left on device" in messages
    assert "Run the same command again to resume." in messages
    kept = intact_members(output)
    assert kept >= 2
    filler.unlink()
    code, messages = finish(start(command))
    assert code == 0, messages
    assert hashes(output) == quiet


def test_output_that_cannot_be_written_is_refused(small_store, tahoe_model, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, messages = finish(start(cache_command(small_store, tahoe_model, small_disk / "cache")))
    assert code == 2, messages
    assert f"{small_disk}/cache: cannot be written" in messages
    assert "Traceback" not in messages


def test_a_member_that_kills_its_encoder(small_store, tahoe_model, tmp_path, one_ray):
    command = cache_command(
        small_store, tahoe_model, tmp_path / "cache", actors=1, address=one_ray, wait=0, poison=65
    )
    code, messages = finish(start(command))
    assert code == 1, messages
    assert f"{tmp_path}/cache: " in messages
    assert "begun 4 times" in messages
    assert intact_members(tmp_path / "cache") >= 1


@pytest.fixture
def remote(faulty_store: FaultyStore, small_store: Path) -> str:
    """A prefix of the object store that holds the cells."""
    prefix = f"{faulty_store.url}/{uuid.uuid4().hex}"
    remote, target = fsspec.core.url_to_fs(f"{prefix}/cells")
    remote.put(f"{small_store}/", f"{target}/", recursive=True)
    return prefix


def remote_hashes(output: str) -> dict[str, str]:
    location = Location.of(output)
    return {
        name: xxhash.xxh3_128_hexdigest(location.read(name)) for name in location.list() if name != "run.json"
    }


def test_a_store_in_trouble_goes_down_and_comes_back(faulty_store, remote, tahoe_model, quiet):
    command = cache_command(f"{remote}/cells", tahoe_model, f"{remote}/cache", actors=1)
    running = start(command, SYNCYTIUM_STORE_ATTEMPTS="4")
    while not any("member-" in name for name in Location.of(f"{remote}/cache").list()):
        assert running.poll() is None, finish(running)[1]
        time.sleep(0.2)  # the store answers in this process, and has the job to serve
    faulty_store.trouble = {"SlowDown": 1.0}
    code, messages = finish(running)
    assert code == 1, messages
    assert f"{remote}/cache" in messages.split("syncytium cache failed: ")[1]
    assert "the store did not recover" in messages
    faulty_store.calm()
    assert intact_members(f"{remote}/cache") >= 1

    # Back, and still in trouble: with as many attempts as a run has, nobody notices.
    faulty_store.trouble = TROUBLE
    code, messages = finish(start(command))
    assert code == 0, messages
    met = dict(faulty_store.met)
    faulty_store.calm()
    assert min(met[fault] for fault in TROUBLE) > 0, met
    assert remote_hashes(f"{remote}/cache") == quiet
