"""A real SLURM of several nodes on this machine: slurmctld, a slurmd per node, munge, all as Debian has them.

A node is a machine made of namespaces (tests/chaos/switch.py), so that the `ray stop` at the end of a job
ends no Ray but the job's own. The disk is shared, as a cluster's home is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.chaos.switch import DYING, Machine, Switch, spawn, until
from tests.chaos.switch import why_not as why_no_machines

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol", "srun")
NETWORK = "10.78.0"

# bash stays, to bury what SLURM leaves; the first node is the controller's, too.
DAEMONS = """
[ "$(hostname)" != node1 ] || slurmctld -D &
slurmd -D &
wait
"""

# Processes are watched without cgroups, which a container may not have.
CONFIGURATION = """ClusterName=test
SlurmctldHost=node1({network}.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmUser=root
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/%n/spool
SlurmdPidFile={folder}/%n/slurmd.pid
SlurmdLogFile={folder}/%n/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=5
MinJobAge=3600
JobRequeue=1
SchedulerParameters=sched_interval=1,bf_interval=1
NodeName=node[1-{nodes}] NodeAddr={network}.[1-{nodes}] CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """What this machine lacks to run a SLURM, if anything."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"needs {', '.join(missing)}: apt-get install --no-install-recommends slurm-wlm munge"
    return why_no_machines()


class SlurmCluster:
    """Nodes node1 (with the controller) to noden, idle and ready. `down` ends everything."""

    def __init__(self, folder: Path, nodes: int, cpus: int) -> None:
        """`folder`: for configuration, logs and what nodes write to /tmp/ray. `cpus`: of each node."""
        self.folder = folder
        (folder / "state").mkdir()
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        configuration = CONFIGURATION.format(network=NETWORK, folder=folder, nodes=nodes, cpus=cpus)
        (folder / "slurm.conf").write_text(configuration)
        self._environment = _environment() | {"SLURM_CONF": str(folder / "slurm.conf")}
        self._munge = self._start_munge()
        self._switch = Switch(NETWORK, folder)
        self.nodes = [self._boot(number) for number in range(1, nodes + 1)]
        until(lambda: self._idle() == nodes, f"{nodes} idle nodes; logs are in {folder}", seconds=300)

    def on_first(self, command: list[str], folder: Path, **variables: str) -> subprocess.Popen[str]:
        """Start a command on the first node, as its users do; killing what is returned kills it."""
        return subprocess.Popen(
            [*self.nodes[0].entered(folder), *command],
            env=self._environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints. Raises AssertionError with its own words."""
        asked = self.on_first(list(command), self.folder)
        printed, messages = asked.communicate(timeout=300)
        assert asked.returncode == 0, f"{' '.join(command)}: {messages}"
        return printed

    def fact(self, job: str, name: str) -> str:
        """What `scontrol show job` says of a job: JobState, Restarts, NodeList."""
        words = self.ask("scontrol", "show", "job", "--oneliner", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)[name]

    def down(self) -> None:
        for node in self.nodes:
            node.shell.kill()
            node.shell.wait()
        self._switch.down()
        self._munge.kill()
        self._munge.wait()

    def _start_munge(self) -> subprocess.Popen[bytes]:
        folder = self.folder
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        places = {"key-file": key, "socket": folder / "munge.sock", "pid-file": folder / "munged.pid"}
        places |= {"log-file": folder / "munged.log", "seed-file": folder / "munged.seed"}
        flags = [f"--{name}={path}" for name, path in places.items()]
        # As root and in a temporary folder, both of which it would rather not.
        munge = spawn([*DYING, "munged", "--foreground", "--force", *flags], self._environment)
        until((folder / "munge.sock").exists, f"munge; see {folder}/munged.log", seconds=100)
        return munge

    def _boot(self, number: int) -> Machine:
        (self.folder / f"node{number}" / "spool").mkdir(parents=True)
        return self._switch.boot(number, ["bash", "-ec", DAEMONS], self._environment)

    def _idle(self) -> int:
        asked = self.on_first(["sinfo", "--noheader", "--states=idle", "--format=%D"], self.folder)
        printed, _ = asked.communicate(timeout=300)
        time.sleep(0.2)
        return int(printed.strip() or 0)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
