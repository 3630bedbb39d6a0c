"""`cache` across machines that die, come, crawl, are cut off: complete, and byte for byte what one makes."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.chaos.cache_runs import (
    cache_command,
    committed,
    finish,
    kill,
    most_begun,
    wait_for_members,
)
from tests.chaos.namespaces import NamespaceCluster
from tests.chaos.switch import Machine, stopped, until
from tests.streaming.in_process import hashes

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

SECONDS_CUT_OFF = 30


@pytest.fixture
def cluster(namespace_cluster: NamespaceCluster) -> NamespaceCluster:
    """With its two machines, whatever the test before left of them."""
    namespace_cluster.up(2)
    return namespace_cluster


@pytest.fixture
def command(cluster: NamespaceCluster, small_store: Path, tahoe_model: Path, tmp_path: Path) -> list[str]:
    return cache_command(small_store, tahoe_model, tmp_path / "cache", address=cluster.address, actors=3)


def head(cluster: NamespaceCluster) -> Machine:
    return cluster.nodes[1]


def worker(cluster: NamespaceCluster) -> Machine:
    return cluster.nodes[max(cluster.nodes)]


def encoders(node: Machine) -> list[int]:
    """Processes of a machine that have encoded something."""
    return node.processes("EncodeMembers")


def until_both_encode(cluster: NamespaceCluster, running: subprocess.Popen[str]) -> None:
    until(
        lambda: all(encoders(node) for node in cluster.nodes.values()) or running.poll() is not None,
        "an encoder on each machine",
    )
    assert running.poll() is None


def test_one_of_two_machines_is_slow_then_the_driver_is_killed_and_started_on_the_other(
    cluster, command, tmp_path, quiet
):
    output = tmp_path / "cache"
    running = cluster.start(head(cluster), command)
    until_both_encode(cluster, running)
    # Nobody takes from the slow one what it has begun.
    with cluster.slow(worker(cluster), share=0.2):
        assert most_begun(output, running, members=10) == 1
    kill(running)
    assert not list((output / "_log").glob("snapshot-*.json"))
    kept = committed(output)
    code, messages = cluster.run(worker(cluster), command)
    assert code == 0, messages
    assert hashes(output) == quiet
    run = json.loads((output / "run.json").read_text())
    assert kept <= run["facts"]["members_resumed"] < len(list((output / "_log").glob("member-*")))


def test_a_machine_is_cut_off_and_the_one_that_comes_for_it_loses_power(
    cluster, small_store, tahoe_model, tmp_path, quiet
):
    """Cut off for longer than Ray waits: the run goes on without it, and its own Ray ends when it is back."""
    output = tmp_path / "cache"
    lasting = cache_command(
        small_store, tahoe_model, output, address=cluster.address, actors=2, wait=SECONDS_CUT_OFF / 10
    )
    running, lone = cluster.start(head(cluster), lasting), worker(cluster)
    until_both_encode(cluster, running)
    with cluster.unplugged(lone):
        time.sleep(SECONDS_CUT_OFF)
        assert running.poll() is None
    # The encoder on the head; what was encoded and not yet committed still is.
    with stopped(encoders(head(cluster))):
        cluster.forget(lone)
        new = cluster.add()
        until(lambda: bool(encoders(new)) or running.poll() is not None, "an encoder on the new machine")
        wait_for_members(output, running, committed(output) + 2)
        cluster.power_cut(new)
    assert running.poll() is None
    code, messages = finish(running)
    assert code == 0, messages
    assert hashes(output) == quiet
    until(lambda: lone.shell.poll() is not None, "the end of Ray on the machine that was cut off")
