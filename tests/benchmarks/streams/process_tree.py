"""What a process and all it starts cost, followed over time."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


class ProcessTree:
    """CPU-seconds of this process and of all it has started, also of those that have ended since."""

    LOOK_EVERY_SECONDS = 0.1

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, str], float] = {}
        self._tick = os.sysconf("SC_CLK_TCK")
        self._looks: list[tuple[float, float]] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(self.LOOK_EVERY_SECONDS):
                self._look()
                # Looking is no part of what is measured.
                total = sum(self._seconds.values()) - time.thread_time()
                self._looks.append((time.time(), total))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def seconds(self, start: float, stop: float) -> float:
        """CPU-seconds between two moments, in seconds since the epoch."""
        moments, totals = zip(*self._looks, strict=True)
        return float(np.interp(stop, moments, totals) - np.interp(start, moments, totals))

    def _look(self) -> None:
        parents: dict[int, int] = {}
        cpu: dict[int, tuple[str, float]] = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            # Of proc(5), counted behind the name: parent, user and system time, time of start.
            parents[int(name)] = int(fields[1])
            cpu[int(name)] = (fields[19], (int(fields[11]) + int(fields[12])) / self._tick)
        for pid, (started, seconds) in cpu.items():
            if _descends(pid, os.getpid(), parents):
                self._seconds[pid, started] = seconds


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = parents.get(pid, 0)
    return False
