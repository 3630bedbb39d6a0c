"""Many callers at once: does anybody get an error, how long do they wait, what happens beyond the limit."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from engine.serving.settings import Limits, Settings
from tests.benchmarks.report import Figure, main
from tests.benchmarks.serving.server import Client, prepare, serving, texts

ABOUT = """Callers that ask as fast as they are answered: half search by a text (a third of them new), a
quarter search cells like cells, the rest score all of 50,000 cells. Errors are answers other than 200.
Beside the rate of many callers, that of one. Overload: a server that lets two requests in and four wait;
every answer must be 200 or 503 with a time to come back, and after it a single caller must be answered."""

SECONDS = 45.0


def requests(number: int) -> list[tuple[str, dict]]:
    known = texts(8, seed=1)
    asked = []
    for turn, text in enumerate(texts(2_000, seed=10 + number)):
        body = {"text": text if turn % 3 == 0 else known[turn % 8]}
        kinds = [
            ("/v1/search", {**body, "k": 10}),
            ("/v1/search", {"like": {"cells": [turn, turn + 1]}, "k": 10}),
            ("/v1/search", {**body, "k": 5, "where": "family = 'family 3'"}),
            ("/v1/score", body),
        ]
        asked.append(kinds[turn % 4])
    return asked


def under_load(port: int, callers: int, seconds: float) -> tuple[Counter[int], list[float]]:
    """Answers by status, and milliseconds of each."""
    statuses: Counter[int] = Counter()
    took: list[float] = []
    deadline = time.monotonic() + seconds

    def call(number: int) -> None:
        client, own, times = Client(port), Counter(), []
        asked = requests(number)
        turn = 0
        while time.monotonic() < deadline:
            path, body = asked[turn % len(asked)]
            status, milliseconds = client.ask("POST", path, body)
            own[status] += 1
            times.append(milliseconds)
            turn += 1
        client.close()
        statuses.update(own)
        took.extend(times)

    calling = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in calling:
        thread.start()
    for thread in calling:
        thread.join()
    return statuses, took


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    settings = prepare(scratch, 2_000 if smoke else 50_000)
    seconds = 2.0 if smoke else SECONDS
    figures, rates = [], {}
    with serving(settings) as port:
        for callers in (1, 4) if smoke else (1, 16, 64):
            statuses, took = under_load(port, callers, seconds if callers > 1 else seconds / 3)
            rates[callers] = len(took) / (seconds if callers > 1 else seconds / 3)
            if callers == 1:
                alone = float(np.median(took))
                continue
            failed = sum(count for status, count in statuses.items() if status != 200)
            figures += [
                Figure.error(f"{callers} callers: errors among {len(took):,}", failed, "answers", 0),
                Figure.ratio(
                    f"{callers} callers: answers a second", rates[callers], rates[1], "one caller, answers/s"
                ),
                Figure(
                    name=f"{callers} callers: p99",
                    value=float(np.percentile(took, 99)),
                    unit="ms",
                    target=None,
                    better="lower",
                    ours=float(np.percentile(took, 99)),
                    theirs=alone,
                    theirs_is="ms, one caller, p50",
                ),
            ]
    return [*figures, *overloaded(settings, seconds / 2)]


def overloaded(settings: Settings, seconds: float) -> list[Figure]:
    tight = settings.model_copy(
        update={"limits": Limits(requests_per_minute=10_000_000, ongoing=2, queued=4)}
    )
    with serving(tight) as port:
        statuses, took = under_load(port, 32, seconds)
        client = Client(port)
        after = [client.ask("POST", "/v1/search", {"text": "T cell", "k": 3})[0] for _ in range(20)]
        client.close()
    neither = sum(count for status, count in statuses.items() if status not in (200, 503))
    refused = statuses[503] / max(len(took), 1)
    return [
        Figure.error("overload: answers that are neither 200 nor 503", neither, "answers", 0),
        Figure.error("overload: share of 503 at 32 callers on 2 places", refused, "of 1", None),
        Figure.error("after overload: errors of 20", sum(s != 200 for s in after), "answers", 0),
    ]


if __name__ == "__main__":
    raise SystemExit(main("serve_load", ABOUT, measure))
