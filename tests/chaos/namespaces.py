"""A real Ray cluster of several machines on this one: every machine a set of Linux namespaces.

A machine has its own network address, process ids, host name, shared memory and /tmp/ray; it shares the disk.
Machines are plugged into a bridge that lives in a namespace of its own, so nothing appears among the host's
interfaces and nothing leaves the host. No namespace has a name: each lives as long as its first process, and
that dies with the test process, so whatever happens nothing stays behind and two runs do not meet.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

TOOLS = ("ip", "unshare", "nsenter", "setpriv", "mount")
HEAD, PORT = "10.77.0.1", 6379
STORE_BYTES = 100_000_000
SECONDS_TO_START, BOOTS = 120, 3
OF_THE_SWITCH = "10.77.0.254"

# Dies with us, in namespaces of its own.
UNSHARED = ("setpriv", "--pdeathsig", "KILL", "unshare", "--fork", "--kill-child", "--mount-proc")

# A machine boots when its cable is plugged in, which a line on its stdin tells. Ray's sockets and files are
# in /tmp/ray; two machines that share one race for the names in it.
BOOT = """
read -r _
mount --make-rprivate /
mount -t tmpfs -o size=512m tmpfs /dev/shm
mount --bind "$1" /tmp/ray
mount --bind "$2" /etc/hosts
hostname "$3"
shift 3
exec "$@"
"""

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "10",
    "GLOO_SOCKET_IFNAME": "eth0",
    # A dead machine is noticed in seconds; by default it takes about twenty.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}

# Run on the head: returns when so many machines are there.
WAIT_FOR_NODES = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) != int(sys.argv[2]):
    time.sleep(0.2)
"""


def why_not() -> str | None:
    """What this machine lacks to run such a cluster, if anything."""
    if sys.platform != "linux":
        return "needs Linux namespaces"
    if os.geteuid() != 0:
        return "needs root, to make namespaces"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (iproute2, util-linux)"
    tried = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "br0", "type", "bridge"], capture_output=True, text=True
    )
    return f"needs network namespaces with a bridge: {tried.stderr.strip()}" if tried.returncode else None


@dataclass
class Node:
    """One machine. `first` is the process whose end is the machine's end, as the host numbers it."""

    number: int
    first: int
    shell: subprocess.Popen[bytes]
    log: Path

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    def processes(self) -> list[int]:
        """Everything that runs on it."""
        own = os.readlink(f"/proc/{self.first}/ns/pid")
        return [pid for pid in _all_processes() if _namespace_of(pid) == own]


class NamespaceCluster:
    """Machines 1 (the head) to n. Everything ends with `down`, or with this process."""

    def __init__(self, folder: Path, cpus: int = 1) -> None:
        """`cpus`: Ray's CPUs of a machine. `folder`: for logs and for what machines write to /tmp/ray."""
        self.folder, self.cpus = folder, cpus
        self.nodes: dict[int, Node] = {}
        self._born = 0
        self._hosts = folder / "hosts"
        Path("/tmp/ray").mkdir(exist_ok=True)
        self._switch = _spawn([*UNSHARED, "--net", "--pid", "sleep", "infinity"])
        self._switch_first = _child_of(self._switch)
        self._switched("link add br0 type bridge", f"addr add {OF_THE_SWITCH}/24 dev br0", "link set br0 up")

    @property
    def address(self) -> str:
        return f"{HEAD}:{PORT}"

    def up(self, n: int) -> None:
        """Have `n` machines: the head and n - 1 workers; those that are there stay."""
        while len(self.nodes) < n:
            self._boot()
        self._wait_for_nodes()

    def add(self) -> Node:
        """One more machine; returns when Ray knows it."""
        node = self._boot()
        self._wait_for_nodes()
        return node

    def start(self, node: Node, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command on a machine; killing what is returned kills it."""
        entered = ["nsenter", "-t", str(node.first), "-n", "-m", "-p", "-u", f"--wd={REPOSITORY}"]
        environment = {**os.environ, **ENVIRONMENT, "RAY_ADDRESS": self.address}
        return subprocess.Popen(
            [*entered, "setpriv", "--pdeathsig", "KILL", *command],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, node: Node, command: Sequence[str], seconds: float = 300) -> tuple[int, str]:
        """Run a command on a machine to its end: (exit code, stderr)."""
        running = self.start(node, command)
        _, messages = running.communicate(timeout=seconds)
        return running.returncode, messages

    def power_cut(self, node: Node) -> None:
        """All its processes end at once and nobody is told."""
        _signal([node.first], signal.SIGKILL)
        node.shell.wait()
        del self.nodes[node.number]

    def drain(self, node: Node) -> None:
        """Tell it to end, as a spot market or Kubernetes does, and wait until it has."""
        _signal([node.first], signal.SIGTERM)
        node.shell.wait(timeout=SECONDS_TO_START)
        del self.nodes[node.number]

    @contextmanager
    def slow(self, node: Node, share: float = 0.25) -> Iterator[None]:
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
        for node in list(self.nodes.values()):
            self.power_cut(node)
        self._switch.kill()
        self._switch.wait()

    def _boot(self) -> Node:
        # Ray gives a machine 30 s to start and then gives it up; on a busy host it may need a second chance.
        for _ in range(BOOTS):
            node = self._boot_once()
            if node.shell.poll() is None:
                return node
            self.power_cut(node)
            self._born = node.number - 1
        raise AssertionError(f"no Ray on {node.address} in {BOOTS} attempts:\n{node.log.read_text()[-2000:]}")

    def _boot_once(self) -> Node:
        """Running, or ended if it could not start."""
        self._born += 1
        number = self._born
        disk, log = self.folder / f"ray{number}", self.folder / f"node{number}.log"
        shutil.rmtree(disk, ignore_errors=True)
        disk.mkdir()
        names = [f"10.77.0.{k} node{k}" for k in range(1, number + 1)]
        self._hosts.write_text("\n".join(["127.0.0.1 localhost", *names, ""]))
        address = f"10.77.0.{number}"
        role = ["--head", "--port", str(PORT), "--include-dashboard", "false"]
        ray_start = [
            str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats",
            *(role if number == 1 else ["--address", self.address]),
            "--node-ip-address", address, "--num-cpus", str(self.cpus),
            "--object-store-memory", str(STORE_BYTES),
        ]  # fmt: skip
        own = ["--net", "--mount", "--uts", "--pid"]
        boot = ["bash", "-ec", BOOT, "boot", str(disk), str(self._hosts), f"node{number}", *ray_start]
        with log.open("wb") as stream:
            shell = _spawn([*UNSHARED, *own, *boot], stream)
        node = Node(number, _child_of(shell), shell, log)
        self._plug_in(node)
        self.nodes[number] = node
        until(
            lambda: b"Ray runtime started" in log.read_bytes() or shell.poll() is not None,
            f"Ray on {node.address}; see {log}",
        )
        return node

    def _plug_in(self, node: Node) -> None:
        port = f"port{node.first}"
        self._switched(
            f"link add {port} type veth peer name eth0 netns {node.first}",
            f"link set {port} master br0 up",
        )
        _ip(
            node.first,
            "link set lo up",
            f"addr add {node.address}/24 dev eth0",
            "link set eth0 up",
            # Ray finds its own address by asking for a route.
            f"route add default via {OF_THE_SWITCH}",
        )
        assert node.shell.stdin is not None
        node.shell.stdin.write(b"boot\n")
        node.shell.stdin.close()

    def _wait_for_nodes(self) -> None:
        """Until Ray counts as many living machines as we do."""
        command = [sys.executable, "-c", WAIT_FOR_NODES, self.address, str(len(self.nodes))]
        code, messages = self.run(self.nodes[1], command, seconds=SECONDS_TO_START)
        assert code == 0, messages

    def _switched(self, *commands: str) -> None:
        _ip(self._switch_first, *commands)


def until(condition: Callable[[], bool], what: str, seconds: float = 200) -> None:
    """Wait for a condition; an assertion that says what did not happen if it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s: {what}"
        time.sleep(0.05)


def _spawn(command: Sequence[str], output: object = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command,
        env={**environment, **ENVIRONMENT},
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _child_of(parent: subprocess.Popen[bytes]) -> int:
    """The one child of `unshare --fork`, which is process 1 of the new namespace."""
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    until(lambda: bool(children.read_text().strip()), "a namespace", seconds=20)
    return int(children.read_text())


def _ip(member: int, *commands: str) -> None:
    """iproute2 commands in the network namespace of a process."""
    subprocess.run(
        ["nsenter", "-t", str(member), "-n", "ip", "-batch", "-"],
        input="\n".join(commands).encode(),
        check=True,
        capture_output=True,
    )


def _throttle(node: Node, share: float, ended: threading.Event) -> None:
    period = 0.2
    while not ended.wait(share * period):
        stopped = node.processes()
        _signal(stopped, signal.SIGSTOP)
        ended.wait((1 - share) * period)
        _signal(stopped, signal.SIGCONT)


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _all_processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _namespace_of(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone meanwhile; not ours
        return None
