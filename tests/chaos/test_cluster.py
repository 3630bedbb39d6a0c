"""`cache` across machines that die, come, crawl, are cut off: complete, and byte for byte what one makes."""

import json
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


def test_two_machines_one_of_them_slow(cluster, command, tmp_path, quiet):
    running = cluster.start(head(cluster), command)
    wait_for_members(tmp_path / "cache", running, 2)
    assert encoders(head(cluster))
    assert encoders(worker(cluster))
    with cluster.slow(worker(cluster), share=0.2):
        assert most_begun(tmp_path / "cache", running) == 1
    code, messages = finish(running)
    assert code == 0, messages
    assert hashes(tmp_path / "cache") == quiet
    assert json.loads((tmp_path / "cache" / "run.json").read_text())["facts"]["members_resumed"] == 0


def test_the_driver_is_killed_and_started_on_another_machine(cluster, command, tmp_path, quiet):
    running = cluster.start(head(cluster), command)
    wait_for_members(tmp_path / "cache", running, 3)
    kill(running)
    assert not list((tmp_path / "cache" / "_log").glob("snapshot-*.json"))
    kept = committed(tmp_path / "cache")
    code, messages = cluster.run(worker(cluster), command)
    assert code == 0, messages
    assert hashes(tmp_path / "cache") == quiet
    run = json.loads((tmp_path / "cache" / "run.json").read_text())
    assert kept <= run["facts"]["members_resumed"] < len(list((tmp_path / "cache" / "_log").glob("member-*")))


def test_a_machine_loses_power_and_another_comes(cluster, command, tmp_path, quiet):
    running = cluster.start(head(cluster), command)
    wait_for_members(tmp_path / "cache", running, 3)
    assert encoders(worker(cluster))
    cluster.power_cut(worker(cluster))
    # The one on the head; what was encoded and not yet committed still is.
    with stopped(encoders(head(cluster))):
        new = cluster.add()
        until(lambda: bool(encoders(new)) or running.poll() is not None, "an encoder on the new machine")
        wait_for_members(tmp_path / "cache", running, committed(tmp_path / "cache") + 3)
    code, messages = finish(running)
    assert code == 0, messages
    assert hashes(tmp_path / "cache") == quiet


def test_a_machine_is_cut_off(cluster, small_store, tahoe_model, tmp_path, quiet):
    """For longer than Ray waits: the run goes on without it, and its own Ray ends when it is back."""
    output = tmp_path / "cache"
    lasting = cache_command(
        small_store, tahoe_model, output, address=cluster.address, actors=2, wait=SECONDS_CUT_OFF / 12
    )
    running, lone = cluster.start(head(cluster), lasting), worker(cluster)
    wait_for_members(output, running, 2)
    assert encoders(lone)
    with cluster.unplugged(lone):
        time.sleep(SECONDS_CUT_OFF)
        assert running.poll() is None
    code, messages = finish(running)
    assert code == 0, messages
    assert hashes(output) == quiet
    until(lambda: lone.shell.poll() is not None, "the end of Ray on the machine that was cut off")
    cluster.forget(lone)
