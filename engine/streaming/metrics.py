"""What a stream tells about itself while it runs: on the progress line, in run.json and to Prometheus.

Every encoder counts what each member took. The counts go to Ray's metrics, which Prometheus scrapes from
every node (cluster/observability holds the dashboard), and to a small actor that the driver reads for its
progress line.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spent:
    """What members took together.

    slots: tokens that the batches had room for; tokens / slots is the share of useful ones, since packed
    batches hold no padding. encoder_seconds: wall time from tokens to durable objects, summed over encoders.
    busy_seconds: of these, those in the model's forward passes and in taking their results (on a GPU: waiting
    for it). peak_memory_bytes: largest resident set of an encoder process.
    """

    cells: int = 0
    tokens: int = 0
    slots: int = 0
    encoder_seconds: float = 0.0
    busy_seconds: float = 0.0
    peak_memory_bytes: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.cells + other.cells,
            self.tokens + other.tokens,
            self.slots + other.slots,
            self.encoder_seconds + other.encoder_seconds,
            self.busy_seconds + other.busy_seconds,
            max(self.peak_memory_bytes, other.peak_memory_bytes),
        )

    @property
    def useful_token_share(self) -> float | None:
        """Between 0 and 1; None before anything was encoded."""
        return self.tokens / self.slots if self.slots else None


@dataclass(frozen=True)
class Activity:
    """What all encoders of a run have done so far. alive_seconds: since each began, summed over them."""

    spent: Spent
    alive_seconds: float

    @property
    def busy_share(self) -> float | None:
        """Share of the encoders' time spent encoding: low means that they wait for cells or for storage."""
        return self.spent.busy_seconds / self.alive_seconds if self.alive_seconds else None


class ActivityBoard:
    """Body of the actor between the encoders and the driver. Losing it loses the progress line, no work."""

    def __init__(self) -> None:
        self._activity = Activity(Spent(), 0.0)

    def add(self, alive_seconds: float, spent: Spent) -> None:
        """What one more member took, and the time since its encoder began or last told of one."""
        so_far = self._activity
        self._activity = Activity(so_far.spent + spent, so_far.alive_seconds + alive_seconds)

    def read(self) -> Activity:
        return self._activity


# Names as Prometheus shows them behind `ray_`; the field of `Spent` that each counts, None for members.
COUNTERS = {
    "syncytium_stream_members": ("Members encoded and written.", None),
    "syncytium_stream_cells": ("Cells encoded.", "cells"),
    "syncytium_stream_tokens": ("Tokens encoded; no padding among them.", "tokens"),
    "syncytium_stream_token_slots": ("Tokens that the batches had room for.", "slots"),
    "syncytium_stream_encoder_seconds": ("Seconds from tokens to durable objects.", "encoder_seconds"),
    "syncytium_stream_busy_seconds": ("Seconds in forward passes and their results.", "busy_seconds"),
}
MEMBER_SECONDS = "syncytium_stream_member_seconds"
TAGS = ("product", "model")


class EncoderMetrics:
    """The counting side, inside an encoder actor."""

    def __init__(self, board: Any, product: str, model: str) -> None:
        """board: handle of an `ActivityBoard` actor. model: path of the encoder."""
        from ray.util.metrics import Counter, Histogram

        self._board, self._told = board, time.monotonic()
        self._tags = {"product": product, "model": model}
        self._counters = {
            name: Counter(name, description, TAGS) for name, (description, _) in COUNTERS.items()
        }
        self._member_seconds = Histogram(
            MEMBER_SECONDS,
            "Seconds from a member's tokens to its durable objects.",
            [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000],
            TAGS,
        )

    def add(self, spent: Spent) -> None:
        """What one member took."""
        for name, (_, field) in COUNTERS.items():
            amount = 1 if field is None else getattr(spent, field)
            if amount > 0:  # Ray refuses to count by zero
                self._counters[name].inc(amount, self._tags)
        self._member_seconds.observe(spent.encoder_seconds, self._tags)
        now = time.monotonic()
        self._board.add.remote(now - self._told, spent)
        self._told = now
