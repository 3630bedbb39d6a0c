"""The head, which knows who does what, loses power: without and with a Redis that keeps what it knows."""

import shutil
import signal
from pathlib import Path

import pytest

from tests.chaos.cache_runs import cache_command, committed, finish, wait_for_members
from tests.chaos.namespaces import NamespaceCluster
from tests.chaos.switch import Machine
from tests.chaos.test_faults import intact_members
from tests.streaming.in_process import hashes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server"),
]


@pytest.fixture
def cluster(namespace_cluster: NamespaceCluster) -> NamespaceCluster:
    namespace_cluster.up(2)
    return namespace_cluster


def worker(cluster: NamespaceCluster) -> Machine:
    return cluster.nodes[max(cluster.nodes)]


def test_the_head_dies(cluster, small_store: Path, tahoe_model: Path, tmp_path: Path, quiet):
    """Its driver is on another machine. First nobody keeps what the head knows: the job ends, and what it has
    committed is intact. Then Redis does: with another head in the old one's place the job goes on.
    """
    output = tmp_path / "cache"
    command = cache_command(small_store, tahoe_model, output, address=cluster.address, actors=2, wait=1)
    machine = worker(cluster)
    running = cluster.start(machine, command)
    wait_for_members(output, running, 3)
    cluster.power_cut(cluster.nodes[1])
    code, messages = finish(running)
    # Ray, which is all this machine is there for, waits a minute too: if it ends first, the machine does, and
    # everything on it.
    assert code == 1 or (code == -signal.SIGKILL and machine.shell.wait(60) is not None), messages
    assert "Run the same command again to resume." in messages
    kept = intact_members(output)
    assert kept >= 3

    cluster.keep_head_state()
    cluster.up(2)
    running = cluster.start(worker(cluster), command)
    wait_for_members(output, running, kept + 2)
    cluster.restart_head()
    code, messages = finish(running)
    assert code == 0, messages
    assert committed(output) > kept
    assert hashes(output) == quiet
