"""Killing an encoder actor, or the driver, in the middle of `cache` changes no byte of the result."""

import os
import signal

import pytest

from tests.chaos.cache_runs import cache_command, committed, finish, kill, start, wait_for_members
from tests.streaming.in_process import hashes
from tests.training.ray_processes import titled

pytestmark = pytest.mark.slow


def test_encoders_then_their_driver_are_killed_and_two_others_race_to_the_end(
    small_store, tahoe_model, tmp_path, quiet, one_ray
):
    """The first driver's embedded Ray dies with it; the others join another."""
    output = tmp_path / "cache"
    process = start(cache_command(small_store, tahoe_model, output))
    killed = []
    for members in (2, 6):
        wait_for_members(output, process, members)
        victim = titled("EncodeMembers")[0]
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)
    assert len(set(killed)) == 2
    wait_for_members(output, process, 9)
    kill(process)
    before = committed(output)
    assert not list((output / "_log").glob("snapshot-*.json"))

    command = cache_command(small_store, tahoe_model, output, address=one_ray, actors=1)
    racing = [start(command) for _ in range(2)]
    ended = [finish(process) for process in racing]
    assert [code for code, _ in ended] == [0, 0], ended
    assert before < committed(output)
    assert hashes(output) == quiet
