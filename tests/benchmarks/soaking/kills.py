"""Whom it hits: every so many seconds one encoder, trainer, replica, door, driver or machine."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.soaking.machines import Machines
from tests.benchmarks.soaking.repeated import Repeated
from tests.training.ray_processes import titled

# What the process's title holds.
WORKERS = {
    "encoder": "EncodeMembers",
    "trainer": "RayTrainWorker",
    "replica": "ServeReplica",
    "door": "ProxyActor",
}
DRIVER, MACHINE = "driver", "machine"


class Kills(threading.Thread):
    """Until told. `done`: how many of each kind."""

    def __init__(
        self, machines: Machines, jobs: Sequence[Repeated], every: float, diary: Path, seed: int = 0
    ) -> None:
        super().__init__(daemon=True)
        self.done: Counter[str] = Counter()
        self.over = threading.Event()
        self._machines, self._jobs, self._every, self._diary = machines, jobs, every, diary
        self._draw = random.Random(seed)

    def run(self) -> None:
        began = time.monotonic()
        turn = 1
        while not self.over.wait(max(0.0, began + turn * self._every - time.monotonic())):
            self._one(time.monotonic() - began)
            turn += 1

    def _one(self, seconds: float) -> None:
        """One of a random kind; of the next kind where there is none."""
        for kind in self._draw.sample([*WORKERS, DRIVER, MACHINE], len(WORKERS) + 2):
            victim = self._kill(kind)
            if victim is not None:
                self.done[kind] += 1
                with self._diary.open("a") as diary:
                    diary.write(f"{seconds:.0f} s: {kind} {victim}\n")
                return

    def _kill(self, kind: str) -> str | None:
        """Who, if there was one."""
        if kind == MACHINE:
            return self._machines.cut_power(self._draw.random())
        if kind == DRIVER:
            running = [(job.name, process) for job in self._jobs if (process := job.running) is not None]
            if not running:
                return None
            name, process = self._draw.choice(running)
            process.kill()
            return name
        there = sorted(titled(WORKERS[kind]))
        if not there:
            return None
        pid = self._draw.choice(there)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # has ended meanwhile
            return None
        return str(pid)
