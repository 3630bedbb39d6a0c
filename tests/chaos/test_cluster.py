"""`cache` across machines that die, come, crawl: complete, and byte for byte what one machine makes."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
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
from tests.chaos.namespaces import NamespaceCluster, Node, until
from tests.streaming.in_process import hashes

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture
def cluster(namespace_cluster: NamespaceCluster) -> NamespaceCluster:
    """With its two machines, whatever the test before left of them."""
    namespace_cluster.up(2)
    return namespace_cluster


@pytest.fixture
def command(cluster: NamespaceCluster, small_store: Path, slow_model: Path, tmp_path: Path) -> list[str]:
    return cache_command(small_store, slow_model, tmp_path / "cache", address=cluster.address, actors=3)


def head(cluster: NamespaceCluster) -> Node:
    return cluster.nodes[1]


def worker(cluster: NamespaceCluster) -> Node:
    return cluster.nodes[max(cluster.nodes)]


def encoders(node: Node) -> list[int]:
    """Processes of a machine that have encoded something."""
    titles = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in node.processes()}
    return [pid for pid, title in titles.items() if b"EncodeMembers" in title]


@contextmanager
def stopped(processes: list[int]) -> Iterator[None]:
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


def test_two_machines_make_what_one_makes(cluster, command, tmp_path, quiet):
    running = cluster.start(head(cluster), command)
    wait_for_members(tmp_path / "cache", running, 2)
    assert encoders(head(cluster))
    assert encoders(worker(cluster))
    assert most_begun(tmp_path / "cache", running) == 1
    code, messages = finish(running)
    assert code == 0, messages
    assert hashes(tmp_path / "cache") == quiet


def test_a_slow_machine(cluster, command, tmp_path, quiet):
    running = cluster.start(head(cluster), command)
    wait_for_members(tmp_path / "cache", running, 2)
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


def test_a_machine_loses_power(cluster, command, tmp_path, quiet):
    running = cluster.start(head(cluster), command)
    wait_for_members(tmp_path / "cache", running, 3)
    cluster.power_cut(worker(cluster))
    code, messages = finish(running)
    assert code == 0, messages
    assert hashes(tmp_path / "cache") == quiet


def test_a_machine_comes(cluster, command, tmp_path, quiet):
    while len(cluster.nodes) > 1:
        cluster.drain(worker(cluster))
    running = cluster.start(head(cluster), command)
    wait_for_members(tmp_path / "cache", running, 1)
    with stopped(encoders(head(cluster))):
        new = cluster.add()
        until(lambda: bool(encoders(new)) or running.poll() is not None, "an encoder on the new machine")
        # More than what was encoded and not yet committed.
        wait_for_members(tmp_path / "cache", running, committed(tmp_path / "cache") + 3)
    code, messages = finish(running)
    assert code == 0, messages
    assert hashes(tmp_path / "cache") == quiet
