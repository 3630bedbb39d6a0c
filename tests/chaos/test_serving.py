"""A service on two machines, deployed from its config file, one of which loses power while callers ask."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.serving.config_file import config_file
from engine.serving.settings import Settings
from storage.locations import Location
from tests.chaos.namespaces import PYTHON, NamespaceCluster
from tests.chaos.switch import until
from tests.retrieval.inputs import built

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

HOST, PORT, CALLERS = "127.0.0.1", 8000, 3


@pytest.fixture
def cluster(namespace_cluster: NamespaceCluster) -> Iterator[NamespaceCluster]:
    namespace_cluster.up(2)
    yield namespace_cluster
    serve(namespace_cluster, "shutdown", "--yes")


def serve(cluster: NamespaceCluster, *command: str) -> None:
    words = [str(PYTHON / "serve"), *command, "-a", cluster.dashboard_address]
    code, messages = cluster.run(cluster.nodes[1], words)
    assert code == 0, messages


def test_a_machine_of_two_loses_power(cluster: NamespaceCluster, tmp_path: Path) -> None:
    """Every question is answered at the first attempt, and as before."""
    built(Location.of(str(tmp_path)), n_cells=300)
    config, report = tmp_path / "config.yaml", tmp_path / "answers.json"
    config.write_text(config_file(Settings(index=str(tmp_path / "index"), replicas=2), HOST, PORT))
    serve(cluster, "deploy", str(config))
    head, worker = cluster.nodes[1], cluster.nodes[max(cluster.nodes)]
    asking = [sys.executable, "-m", "tests.benchmarks.soaking.load", str(PORT), str(report), str(CALLERS)]
    callers = cluster.start(head, asking, tmp_path / "callers.log")

    def answers() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(report.read_text())
        return found

    def rooms(title: str) -> list[int]:
        return [len(node.processes(f"ServeReplica:syncytium:{title}")) for node in (head, worker)]

    until(report.exists, "the first answers")
    until(lambda: rooms("CellRoom") == rooms("Door") == [1, 1], "a door and a room on each machine")
    before = answers()["asked"]
    cluster.power_cut(worker)
    until(lambda: answers()["asked"] > before + 100, "a hundred questions without the machine")
    until(lambda: len(head.processes("ServeReplica:syncytium:CellRoom")) == 2, "both rooms on what is left")
    cluster.tell(callers, signal.SIGTERM)
    callers.wait()
    found = answers()
    assert (found["failures"], found["wrong"], found["unanswered"]) == ({}, 0, 0)
