"""Memory of everything this process has started, over time."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np

from tests.training.ray_processes import private_bytes, titled

EVERY_SECONDS = 5.0


class MemoryWatch(threading.Thread):
    """Resident bytes without what processes share: the object stores are told of by a program on the head."""

    def __init__(self, store_log: Path) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.moments: list[float] = []
        self.resident: list[int] = []
        self.processes: list[int] = []
        self.largest = 0
        self._store_log = store_log

    def run(self) -> None:
        while not self.over.wait(EVERY_SECONDS):
            sizes = [size for pid in titled("") if (size := _private(pid)) is not None]
            self.moments.append(time.monotonic())
            self.resident.append(sum(sizes))
            self.processes.append(len(sizes))
            self.largest = max([self.largest, *sizes])

    def store(self) -> tuple[list[float], float]:
        """Bytes in use in the object stores, over time; their size."""
        lines = [json.loads(line) for line in self._store_log.read_text().splitlines() if line[:1] == "{"]
        return [line["used"] for line in lines], max((line["size"] for line in lines), default=0.0)


def growth(values: list[float] | list[int]) -> float:
    """Of the mean: the last third over the second. In the first, everything is still being loaded."""
    first, last = np.array_split(np.asarray(values, float), 3)[1:]
    return float(last.mean() / max(first.mean(), 1.0))


def _private(pid: int) -> int | None:
    try:
        return private_bytes(pid)
    except (FileNotFoundError, ProcessLookupError):  # has ended meanwhile
        return None
