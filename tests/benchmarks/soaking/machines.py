"""Where the soak runs: machines made of namespaces that may lose power, or this one, for a short look."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from engine import ray_session
from tests.chaos.namespaces import NamespaceCluster
from tests.conftest import REPOSITORY

CPUS_OF_A_MACHINE, SECONDS_TO_END = 2, 120


class Machines(Protocol):
    address: str

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[str]:
        """Start a command on the head."""
        ...

    def end(self, running: subprocess.Popen[str]) -> None:
        """Tell what was started to end, and wait until it has."""
        ...

    def cut_power(self, choice: float) -> str | None:
        """Of one worker, chosen by a number in [0, 1); another machine takes its place. Which, if any."""
        ...


class Namespaces:
    """A head, which is spared, and workers."""

    def __init__(self, cluster: NamespaceCluster, n: int) -> None:
        self._cluster, self._n, self.address = cluster, n, cluster.address
        self._booting: threading.Thread | None = None

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[str]:
        return self._cluster.start(self._cluster.nodes[1], command, log)

    def end(self, running: subprocess.Popen[str]) -> None:
        self._cluster.tell(running, signal.SIGTERM)
        running.wait(timeout=SECONDS_TO_END)

    def cut_power(self, choice: float) -> str | None:
        if self._booting is not None and self._booting.is_alive():
            return None
        workers = [node for number, node in sorted(self._cluster.nodes.items()) if number > 1]
        if not workers:
            return None
        unlucky = workers[int(choice * len(workers))]
        self._cluster.power_cut(unlucky)
        # And others whose Ray has ended meanwhile.
        self._booting = threading.Thread(target=self._cluster.up, args=(self._n,), daemon=True)
        self._booting.start()
        return unlucky.address

    def wait(self) -> None:
        """Until the machine that is booting is there."""
        if self._booting is not None:
            self._booting.join()


class OwnMachine:
    """This machine alone; it keeps its power."""

    def __init__(self, address: str) -> None:
        self.address = address

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[str]:
        with log.open("a") as said:
            return subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={**os.environ, "RAY_ADDRESS": self.address},
                stdout=said,
                stderr=said,
                text=True,
                start_new_session=True,
            )

    def end(self, running: subprocess.Popen[str]) -> None:
        running.terminate()
        running.wait(timeout=SECONDS_TO_END)

    def cut_power(self, choice: float) -> None:
        return None


@contextmanager
def namespaces(folder: Path, n: int) -> Iterator[Namespaces]:
    cluster = NamespaceCluster(folder, cpus=CPUS_OF_A_MACHINE, missed_beats=8)
    try:
        cluster.up(n)
        machines = Namespaces(cluster, n)
        yield machines
        machines.wait()
    finally:
        cluster.down()


@contextmanager
def own_machine() -> Iterator[OwnMachine]:
    import ray

    with ray_session.connect("local", num_cpus=CPUS_OF_A_MACHINE):
        yield OwnMachine(ray.get_runtime_context().gcs_address)
