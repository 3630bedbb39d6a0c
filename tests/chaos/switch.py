"""Machines on this one: each a set of Linux namespaces, plugged into a switch.

A machine has its own network address, process ids, host name, shared memory and /tmp/ray; it shares the disk.
The switch is a bridge that lives in a namespace of its own, so nothing appears among the host's interfaces
and nothing leaves the host. No namespace has a name: each lives as long as its first process, and that dies
with the test process, so whatever happens nothing stays behind and two runs do not meet.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.training.ray_processes import title_of

TOOLS = ("ip", "unshare", "nsenter", "setpriv", "mount")
SECONDS_TO_WAIT = 600

# Dies with us, in namespaces of its own.
DYING = ("setpriv", "--pdeathsig", "KILL")
UNSHARED = (*DYING, "unshare", "--fork", "--kill-child", "--mount-proc")

# A machine boots when its cable is plugged in, which a line on its stdin tells. Ray's sockets and files are
# in /tmp/ray; two machines that share one race for the names in it.
BOOT = """
read -r _
mount --make-rprivate /
mount -t tmpfs -o size=1200m tmpfs /dev/shm
mount --bind "$1" /tmp/ray
mount --bind "$2" /etc/hosts
hostname "$3"
shift 3
exec "$@"
"""


def why_not() -> str | None:
    """What this machine lacks to hold others, if anything."""
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
class Machine:
    """`first` is the process whose end is the machine's end, as the host numbers it; `shell` its parent."""

    number: int
    address: str
    first: int
    shell: subprocess.Popen[bytes]
    log: Path

    def entered(self, folder: Path) -> list[str]:
        """Words before a command that run it on this machine, in a folder; it dies with who started it."""
        return ["nsenter", "-t", str(self.first), "-n", "-m", "-p", "-u", f"--wd={folder}", *DYING]

    def processes(self, title: str = "") -> list[int]:
        """What runs on it, with these words in its command line; as the host numbers it."""
        own = os.readlink(f"/proc/{self.first}/ns/pid")
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [pid for pid in pids if _namespace_of(pid) == own and title in title_of(pid)]


class Switch:
    """What machines are plugged into. `network`: the first three numbers of all addresses. `folder`: for the
    machines' logs, hosts and /tmp/ray.
    """

    def __init__(self, network: str, folder: Path) -> None:
        self.network, self.address, self._folder = network, f"{network}.254", folder
        self._names: list[str] = []
        Path("/tmp/ray").mkdir(exist_ok=True)
        self._process = spawn([*UNSHARED, "--net", "--pid", "sleep", "infinity"])
        self._first = child_of(self._process)
        self._do("link add br0 type bridge", f"addr add {self.address}/24 dev br0", "link set br0 up")

    def boot(self, number: int, command: Sequence[str], environment: Mapping[str, str]) -> Machine:
        """A machine, plugged in, on an empty /tmp/ray, that runs a command and ends with it."""
        disk, log = self._folder / f"ray{number}", self._folder / f"node{number}.log"
        shutil.rmtree(disk, ignore_errors=True)
        disk.mkdir()
        hosts, name = self._hosts(number), f"node{number}"
        own = ["--net", "--mount", "--uts", "--pid"]
        booting = ["bash", "-ec", BOOT, "boot", str(disk), str(hosts), name, *command]
        with log.open("wb") as stream:
            shell = spawn([*UNSHARED, *own, *booting], environment, stream, stdin=subprocess.PIPE)
        machine = Machine(number, f"{self.network}.{number}", child_of(shell), shell, log)
        self._plug_in(machine)
        return machine

    @contextmanager
    def unplugged(self, machine: Machine) -> Iterator[None]:
        """While the body runs, nothing reaches a machine and nothing leaves it."""
        self._do(f"link set port{machine.first} down")
        try:
            yield
        finally:
            self._do(f"link set port{machine.first} up")

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """A program behind the switch, at its address."""
        return spawn(["nsenter", "-t", str(self._first), "-n", *DYING, *command], environment)

    def down(self) -> None:
        self._process.kill()
        self._process.wait()

    def _hosts(self, number: int) -> Path:
        """Names of all machines up to this one; those that are there see the new one, too."""
        hosts = self._folder / "hosts"
        while len(self._names) < number:
            place = len(self._names) + 1
            self._names.append(f"{self.network}.{place} node{place}")
        hosts.write_text("\n".join(["127.0.0.1 localhost", *self._names, ""]))
        return hosts

    def _plug_in(self, machine: Machine) -> None:
        port = f"port{machine.first}"
        self._do(
            f"link add {port} type veth peer name eth0 netns {machine.first}",
            f"link set {port} master br0 up",
        )
        _ip(
            machine.first,
            "link set lo up",
            f"addr add {machine.address}/24 dev eth0",
            "link set eth0 up",
            # Ray finds its own address by asking for a route.
            f"route add default via {self.address}",
        )
        assert machine.shell.stdin is not None
        machine.shell.stdin.write(b"boot\n")
        machine.shell.stdin.close()

    def _do(self, *commands: str) -> None:
        _ip(self._first, *commands)


def until(condition: Callable[[], bool], what: str, seconds: float = SECONDS_TO_WAIT) -> None:
    """Wait for a condition; an assertion that says what did not happen if it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s: {what}"
        time.sleep(0.05)


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """While the body runs, these processes do not. They may be gone behind it."""
    tell(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        tell(pids, signal.SIGCONT)


def tell(pids: Sequence[int], number: signal.Signals) -> None:
    """A signal to each that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    output: object = subprocess.DEVNULL,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """A process of a session of its own that waits for nobody."""
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command,
        env=environment,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def child_of(parent: subprocess.Popen[bytes] | subprocess.Popen[str]) -> int:
    """The one child of `unshare --fork`, which is process 1 of the new namespace; or of `nsenter`."""
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    until(lambda: bool(children.read_text().strip()), "a namespace", seconds=100)
    return int(children.read_text())


def _ip(member: int, *commands: str) -> None:
    """iproute2 commands in the network namespace of a process."""
    subprocess.run(
        ["nsenter", "-t", str(member), "-n", "ip", "-batch", "-"],
        input="\n".join(commands).encode(),
        check=True,
        capture_output=True,
    )


def _namespace_of(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone meanwhile; not ours
        return None
