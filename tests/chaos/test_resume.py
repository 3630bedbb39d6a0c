"""Killing an encoder actor, or the driver, in the middle of `cache` changes no byte of the result."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.streaming.in_process import hashes

pytestmark = pytest.mark.slow

SECONDS_TO_WAIT = 400


def cache_command(store: Path, model: Path, output: Path, *extra: str) -> list[str]:
    flags = ["--cells", store, "--model", model, "--hooks", "resid_post_0,final", "--output", output]
    sizing = ["--shard-tokens", "512", "--tokens-per-cell", "32", "--actors", "2", "--address", "local"]
    return [sys.executable, "-m", "jobs.cache", *map(str, flags), *sizing, *extra]


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, messages = process.communicate(timeout=SECONDS_TO_WAIT)
    return process.returncode, messages


def committed(output: Path) -> int:
    return len(list((output / "_log").glob("member-*.json")))


def wait_for_members(output: Path, process: subprocess.Popen[str], n: int) -> None:
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while committed(output) < n:
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline, f"only {committed(output)} members"
        time.sleep(0.02)


def processes_below(pid: int) -> dict[int, str]:
    """Process id -> title of everything started by `pid`."""
    found: dict[int, str] = {}
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    parents = [line.split(None, 2) for line in listing.stdout.splitlines()]
    wanted = {pid}
    while True:
        below = {
            int(own): title
            for own, parent, title in parents
            if int(parent) in wanted and int(own) not in found
        }
        if not below:
            return found
        found |= below
        wanted = set(below)


def encoders_of(process: subprocess.Popen[str]) -> list[int]:
    return [pid for pid, title in processes_below(process.pid).items() if "EncodeMembers" in title]


@pytest.fixture(scope="module")
def uninterrupted(small_store, tahoe_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted") / "cache"
    code, messages = finish(start(cache_command(small_store, tahoe_model, output)))
    assert code == 0, messages
    return hashes(output)


def test_killed_encoder_actor(small_store, tahoe_model, tmp_path, uninterrupted):
    output = tmp_path / "cache"
    process = start(cache_command(small_store, tahoe_model, output))
    killed = []
    for members in (2, 6):
        wait_for_members(output, process, members)
        victim = encoders_of(process)[0]
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)
    code, messages = finish(process)
    assert code == 0, messages
    assert len(set(killed)) == 2
    assert hashes(output) == uninterrupted


def test_killed_driver(small_store, tahoe_model, tmp_path, uninterrupted):
    output = tmp_path / "cache"
    process = start(cache_command(small_store, tahoe_model, output))
    wait_for_members(output, process, 3)
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    before = committed(output)
    assert not list((output / "_log").glob("snapshot-*.json"))
    code, messages = finish(start(cache_command(small_store, tahoe_model, output)))
    assert code == 0, messages
    assert before < committed(output)
    assert hashes(output) == uninterrupted


def test_two_drivers_on_one_output(small_store, tahoe_model, tmp_path, uninterrupted):
    output = tmp_path / "cache"
    racing = [start(cache_command(small_store, tahoe_model, output)) for _ in range(2)]
    ended = [finish(process) for process in racing]
    assert [code for code, _ in ended] == [0, 0], ended
    assert hashes(output) == uninterrupted
