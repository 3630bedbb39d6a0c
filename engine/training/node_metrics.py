"""Training as Prometheus sees it: counts and the newest values of a run, through Ray's agent on the node.

Told with every checkpoint, as the other trackers are: between two of them nothing moves, so look over windows
that hold several. cluster/observability holds the dashboard and the alerts.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from storage.locations import Location

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

# Names as Prometheus shows them behind `ray_`; the column of the curve that each counts, None for steps.
COUNTERS = {
    "syncytium_training_steps": ("Optimiser steps.", None),
    "syncytium_training_tokens": ("Tokens of them, over all workers.", "tokens"),
    "syncytium_training_seconds": ("Seconds of them, waiting for tokens included.", "seconds"),
}
GAUGES = {
    "syncytium_training_loss": ("Of the newest step.", "loss"),
    "syncytium_training_gradient_norm": ("Before it was clipped, of the newest step.", "gradient_norm"),
    "syncytium_training_learning_rate": ("Of the newest step.", "learning_rate"),
}
# Unix time of the newest checkpoint; steps since the one before whose loss or gradient was no number.
CHECKPOINT_TIME, NOT_FINITE = "syncytium_training_checkpoint_time_seconds", "syncytium_training_not_finite"
TAGS = ("run",)

# What Ray's agent has not heard of again within two reports it shows no more, and a process reports a value
# once: a gauge that moves with every checkpoint would be gone between two of them.
REPEAT_SECONDS = 1.0


class NodeMetrics:
    """A tracker for processes that Ray started; `run` is the path of the output."""

    def __init__(self, output: Location) -> None:
        from ray.util.metrics import Counter, Gauge

        self._tags = {"run": str(output)}
        self._counters = {name: Counter(name, about, TAGS) for name, (about, _) in COUNTERS.items()}
        self._gauges = {name: Gauge(name, about, TAGS) for name, (about, _) in GAUGES.items()}
        self._saved = Gauge(CHECKPOINT_TIME, "Unix time of the newest checkpoint.", TAGS)
        self._not_finite = Gauge(NOT_FINITE, "Steps without a finite loss and gradient.", TAGS)
        self._newest: dict[Gauge, float] = {}
        self._over = threading.Event()
        threading.Thread(target=self._repeat, daemon=True).start()

    def log(self, rows: Sequence[Mapping[str, float]]) -> None:
        for name, (_, column) in COUNTERS.items():
            amount = float(len(rows) if column is None else sum(row.get(column, 0.0) for row in rows))
            if amount > 0:  # Ray refuses to count by zero
                self._counters[name].inc(amount, self._tags)
        for name, (_, column) in GAUGES.items():
            finite = [row[column] for row in rows if column in row and math.isfinite(row[column])]
            if finite:
                self._set(self._gauges[name], finite[-1])
        self._set(self._not_finite, sum(map(_not_finite, rows)))
        self._set(self._saved, time.time())

    def close(self) -> None:
        """The series end."""
        self._over.set()

    def _set(self, gauge: Gauge, value: float) -> None:
        self._newest[gauge] = value
        gauge.set(value, self._tags)

    def _repeat(self) -> None:
        while not self._over.wait(REPEAT_SECONDS):
            for gauge, value in list(self._newest.items()):
                gauge.set(value, self._tags)


def _not_finite(row: Mapping[str, float]) -> bool:
    return not all(math.isfinite(row[column]) for column in ("loss", "gradient_norm") if column in row)
