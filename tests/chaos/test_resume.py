"""Killing an encoder actor, or the driver, in the middle of `cache` changes no byte of the result."""

import os
import signal
import subprocess

import pytest

from tests.chaos.cache_runs import cache_command, committed, finish, kill, start, wait_for_members
from tests.streaming.in_process import hashes

pytestmark = pytest.mark.slow


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


def test_killed_encoder_actor(small_store, slow_model, tmp_path, quiet):
    output = tmp_path / "cache"
    process = start(cache_command(small_store, slow_model, output))
    killed = []
    for members in (2, 6):
        wait_for_members(output, process, members)
        victim = encoders_of(process)[0]
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)
    code, messages = finish(process)
    assert code == 0, messages
    assert len(set(killed)) == 2
    assert hashes(output) == quiet


def test_killed_driver(small_store, slow_model, tmp_path, quiet):
    output = tmp_path / "cache"
    process = start(cache_command(small_store, slow_model, output))
    wait_for_members(output, process, 3)
    kill(process)
    before = committed(output)
    assert not list((output / "_log").glob("snapshot-*.json"))
    code, messages = finish(start(cache_command(small_store, slow_model, output)))
    assert code == 0, messages
    assert before < committed(output)
    assert hashes(output) == quiet


def test_two_drivers_on_one_output(small_store, slow_model, tmp_path, quiet):
    output = tmp_path / "cache"
    racing = [start(cache_command(small_store, slow_model, output)) for _ in range(2)]
    ended = [finish(process) for process in racing]
    assert [code for code, _ in ended] == [0, 0], ended
    assert hashes(output) == quiet
