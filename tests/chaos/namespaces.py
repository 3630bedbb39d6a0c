"""A real Ray cluster of several machines on this one, each of them a set of Linux namespaces (switch.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.switch import SECONDS_TO_WAIT, Machine, Switch, child_of, tell
from tests.conftest import REPOSITORY

NETWORK = "10.77.0"
HEAD, PORT, DASHBOARD_PORT = f"{NETWORK}.1", 6379, 8265
STORE_BYTES = 100_000_000
BOOTS, SECONDS_TO_BOOT = 3, 120

PYTHON = Path(sys.executable).parent
ENVIRONMENT = {
    # A job that is sent to the cluster runs in the first Python that its machine finds.
    "PATH": f"{PYTHON}:{os.environ['PATH']}",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "10",
    "GLOO_SOCKET_IFNAME": "eth0",
    # A dead machine is noticed in seconds; by default it takes about twenty.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    # Nobody announces that a machine goes away.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

# Run on the head: returns when so many machines are there.
WAIT_FOR_NODES = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) != int(sys.argv[2]):
    time.sleep(0.2)
"""


class NamespaceCluster:
    """Machines 1 (the head) to n. Everything ends with `down`, or with this process."""

    def __init__(
        self, folder: Path, cpus: int = 1, *, dashboard: bool = False, missed_beats: int = 3
    ) -> None:
        """`cpus`: Ray's CPUs of a machine. `folder`: for logs and for what machines write to /tmp/ray.
        `dashboard`: have the head take jobs, at `dashboard_address`. `missed_beats`: of a machine that is
        given up; on a host with too much to do, one that lives may miss some.
        """
        self.cpus, self.dashboard = cpus, dashboard
        self.nodes: dict[int, Machine] = {}
        self._born = 0
        self._redis: subprocess.Popen[bytes] | None = None
        self._head_environment = {"RAY_health_check_failure_threshold": str(missed_beats)}
        self._switch = Switch(NETWORK, folder)

    @property
    def address(self) -> str:
        return f"{HEAD}:{PORT}"

    @property
    def dashboard_address(self) -> str:
        return f"http://{HEAD}:{DASHBOARD_PORT}"

    def up(self, n: int) -> None:
        """Have `n` machines: the head and n - 1 workers; those that are there stay, unless their Ray has
        ended or they have lost their head for good.
        """
        for node in list(self.nodes.values()):
            if node.shell.poll() is not None:
                del self.nodes[node.number]
        if 1 not in self.nodes and self._redis is None:
            self._cut_all()
        while len(self.nodes) < n:
            self._boot()
        self._wait_for_nodes()

    def add(self) -> Machine:
        """One more machine; returns when Ray knows it."""
        node = self._boot()
        self._wait_for_nodes()
        return node

    def start(self, node: Machine, command: Sequence[str], log: Path | None = None) -> subprocess.Popen[str]:
        """Start a command on a machine; killing what is returned kills it. What it says goes to `log`, or its
        stderr to us.
        """
        environment = {**os.environ, **ENVIRONMENT, "RAY_ADDRESS": self.address}
        with (log or Path(os.devnull)).open("a") as said:
            return subprocess.Popen(
                [*node.entered(REPOSITORY), *command],
                env=environment,
                stdout=said if log else None,
                stderr=said if log else subprocess.PIPE,
                text=True,
                start_new_session=True,
            )

    def tell(self, running: subprocess.Popen[str], number: signal.Signals) -> None:
        """Signal what `start` began: not `nsenter`, which would die of it and take the command along."""
        tell([child_of(running)], number)

    def run(self, node: Machine, command: Sequence[str], seconds: float = SECONDS_TO_WAIT) -> tuple[int, str]:
        """Run a command on a machine to its end: (exit code, stderr)."""
        running = self.start(node, command)
        _, messages = running.communicate(timeout=seconds)
        return running.returncode, messages

    def power_cut(self, node: Machine) -> None:
        """All its processes end at once and nobody is told."""
        tell([node.first], signal.SIGKILL)
        node.shell.wait()
        del self.nodes[node.number]

    def forget(self, node: Machine) -> None:
        """A machine that Ray has given up, whether or not its own Ray has ended yet."""
        del self.nodes[node.number]

    @contextmanager
    def unplugged(self, node: Machine) -> Iterator[None]:
        """While the body runs, nothing reaches a machine and nothing leaves it."""
        with self._switch.unplugged(node):
            yield

    def keep_head_state(self) -> None:
        """Cut the power of all; heads that boot from now on keep their state in Redis, behind the switch."""
        self._cut_all()
        redis = ["redis-server", "--bind", self._switch.address, "--protected-mode", "no", "--save", ""]
        self._redis = self._switch.start(redis, _environment())
        self._head_environment["RAY_REDIS_ADDRESS"] = f"{self._switch.address}:{PORT}"

    def restart_head(self) -> Machine:
        """Cut the head's power and boot another in its place, on an empty disk."""
        self.power_cut(self.nodes[1])
        return self._boot()

    @contextmanager
    def slow(self, node: Machine, share: float = 0.25) -> Iterator[None]:
        """While the body runs, let all processes of a machine run only this share of the time."""
        ended = threading.Event()
        throttle = threading.Thread(target=_throttle, args=(node, share, ended), daemon=True)
        throttle.start()
        try:
            yield
        finally:
            ended.set()
            throttle.join()

    def down(self) -> None:
        self._cut_all()
        if self._redis:
            self._redis.kill()
            self._redis.wait()
        self._switch.down()

    def _cut_all(self) -> None:
        for node in list(self.nodes.values()):
            self.power_cut(node)

    def _boot(self) -> Machine:
        """The head, if there is none; else one more machine. Ray gives a machine 30 s to start and then gives
        it up, and some ends soon after it has started; on a busy host it may need a second chance.
        """
        number = 1 if 1 not in self.nodes else self._born + 1
        for _ in range(BOOTS):
            node = self._boot_once(number)
            if self._runs(node) and (number == 1 or self._runs(self.nodes[1])):
                return node
            said = node.log.read_text()[-2000:]
            self.power_cut(node)
            if number != 1 and not self._runs(self.nodes[1]):
                said += self.restart_head().log.read_text()[-2000:]
        raise AssertionError(f"no Ray on {node.address} in {BOOTS} attempts:\n{said}")

    def _boot_once(self, number: int) -> Machine:
        """It runs Ray, unless that could not start or the head has ended."""
        self._born = max(self._born, number)
        shown = ["--dashboard-host", HEAD, "--dashboard-port", str(DASHBOARD_PORT)]
        head = ["--port", str(PORT), "--include-dashboard", str(self.dashboard).lower(), *shown]
        ray_start = [
            str(PYTHON / "ray"), "start", "--block", "--disable-usage-stats",
            *(["--head", *head] if number == 1 else ["--address", self.address]),
            "--node-ip-address", f"{NETWORK}.{number}", "--num-cpus", str(self.cpus),
            "--object-store-memory", str(STORE_BYTES),
        ]  # fmt: skip
        more = self._head_environment if number == 1 else {}
        node = self._switch.boot(number, ray_start, _environment() | more)
        self.nodes[number] = node
        deadline = time.monotonic() + SECONDS_TO_BOOT
        with _hurried(node.shell):
            while not self._runs(node) and time.monotonic() < deadline:
                if node.shell.poll() is not None or self.nodes[1].shell.poll() is not None:
                    break
                time.sleep(0.05)
        return node

    def _runs(self, node: Machine) -> bool:
        return node.shell.poll() is None and b"Ray runtime started" in node.log.read_bytes()

    def _wait_for_nodes(self) -> None:
        """Until Ray counts as many living machines as we do."""
        command = [sys.executable, "-c", WAIT_FOR_NODES, self.address, str(len(self.nodes))]
        code, messages = self.run(self.nodes[1], command)
        assert code == 0, messages


def _environment() -> dict[str, str]:
    """Of a machine: that of the tests without the address of their own Ray."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | ENVIRONMENT


@contextmanager
def _hurried(session: subprocess.Popen[bytes]) -> Iterator[None]:
    """While the body runs, a whole machine counts for more than one of the host's many sessions, where the
    host shares its time among these: Ray's agents have 15 s to start.
    """
    weight = Path(f"/proc/{session.pid}/autogroup")
    if not weight.exists():
        yield
        return
    weight.write_text("-12")
    yield
    if session.poll() is None:
        weight.write_text("0")


def _throttle(node: Machine, share: float, ended: threading.Event) -> None:
    period = 0.2
    while not ended.wait(share * period):
        halted = node.processes()
        tell(halted, signal.SIGSTOP)
        ended.wait((1 - share) * period)
        tell(halted, signal.SIGCONT)
