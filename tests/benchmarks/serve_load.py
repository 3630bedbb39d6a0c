"""Many callers at once: does anybody get an error, how long do they wait, what happens beyond the limit."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.serving.application import build as application
from engine.serving.settings import Limits, Settings
from storage.index import VectorIndex, versions
from tests.benchmarks.report import Figure, main
from tests.benchmarks.serving.memory import megabytes
from tests.benchmarks.serving.server import Client, own_ray, prepare, serving, texts

ABOUT = """Callers that ask as fast as they are answered: half search by a text (a third of them new), a
quarter search cells like cells, the rest score all of 50,000 cells. Errors are answers other than 200, and
requests without an answer. Beside the rate of many callers, that of one. Two replicas of everything: while 16
callers ask, a replica of the cells is killed and then another version of the index is swapped in. Memory is
the growth of all processes of the server while 64 callers ask, after a first round of it. Overload: a server
that lets two requests in and four wait; every answer must be 200 or 503 with a time to come back, and after
it a single caller must be answered."""

SECONDS = 60.0
# Of one of many callers that had no answer at all.
DROPPED = 0


def requests(number: int) -> list[tuple[str, dict]]:
    known = texts(8, seed=1)
    asked = []
    for turn, text in enumerate(texts(2_000, seed=10 + number)):
        body = {"text": text if turn % 3 == 0 else known[turn % 8]}
        kinds = [
            ("/v1/search", {**body, "k": 10}),
            ("/v1/search", {"like": {"cells": [turn + 1, turn + 2]}, "k": 10}),
            ("/v1/search", {**body, "k": 5, "where": "family = 'family 3'"}),
            ("/v1/score", body),
        ]
        asked.append(kinds[turn % 4])
    return asked


def under_load(
    port: int, callers: int, seconds: float, meanwhile: Callable[[], None] | None = None
) -> tuple[Counter[int], list[float]]:
    """Answers by status, and milliseconds of each; longer than `seconds` if what happens meanwhile is."""
    statuses: Counter[int] = Counter()
    took: list[float] = []
    deadline, over = time.monotonic() + seconds, threading.Event()

    def call(number: int) -> None:
        client, own, times = Client(port), Counter[int](), []
        asked = requests(number)
        while time.monotonic() < deadline or not over.is_set():
            path, body = asked[len(times) % len(asked)]
            began = time.perf_counter()
            try:
                status, _ = client.ask("POST", path, body)
            except (OSError, http.client.HTTPException):
                # Counted like any other error; the next question needs another connection.
                status, client = DROPPED, Client(port)
            own[status] += 1
            times.append(1e3 * (time.perf_counter() - began))
        client.close()
        statuses.update(own)
        took.extend(times)

    calling = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in calling:
        thread.start()
    try:
        if meanwhile is not None:
            meanwhile()
    finally:
        over.set()
        for thread in calling:
            thread.join()
    return statuses, took


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    settings = prepare(scratch, 2_000 if smoke else 50_000)
    seconds = 1.0 if smoke else SECONDS
    # One Ray for all three servers.
    with own_ray():
        return [
            *crowded(settings, (4,) if smoke else (16, 64), seconds),
            *disturbed(settings, 2 if smoke else 16, seconds / 2),
            *overloaded(settings, seconds / 4),
        ]


def crowded(settings: Settings, crowds: tuple[int, ...], seconds: float) -> list[Figure]:
    figures: list[Figure] = []
    with serving(settings) as port:
        _, alone = under_load(port, 1, seconds / 3)
        rate = len(alone) / (seconds / 3)
        for callers in crowds:
            # The first round fills what is remembered; growth is looked for in the second.
            under_load(port, callers, seconds / 6)
            before = megabytes()
            statuses, took = under_load(port, callers, seconds)
            figures += [
                Figure.error(f"{callers} callers: errors among {len(took):,}", wrong(statuses), "answers", 0),
                Figure.ratio(
                    f"{callers} callers: answers a second", len(took) / seconds, rate, "one caller, answers/s"
                ),
                slowest(f"{callers} callers: p99", took, alone),
                Figure.error(f"{callers} callers: memory grown", megabytes() - before, "MB", None),
            ]
    return figures


def wrong(statuses: Counter[int]) -> int:
    return sum(count for status, count in statuses.items() if status != 200)


def slowest(name: str, took: list[float], alone: list[float]) -> Figure:
    p99 = float(np.percentile(took, 99))
    one = float(np.median(alone))
    return Figure.cost(name, p99, one, "ms", "ms, one caller, p50")


def disturbed(settings: Settings, callers: int, seconds: float) -> list[Figure]:
    """A replica killed and the index swapped, while callers ask."""
    import ray
    from ray import serve

    settings = settings.model_copy(update={"replicas": 2})
    with serving(settings) as port:

        def kill_and_swap() -> None:
            time.sleep(seconds / 4)
            named = ray.util.list_named_actors(all_namespaces=True)
            victim = next(actor for actor in named if "#CellRoom#" in actor["name"])
            ray.kill(ray.get_actor(victim["name"], namespace=victim["namespace"]), no_restart=True)
            time.sleep(seconds / 4)
            versions.delete(VectorIndex.open(settings.index), np.array([0]))
            serve.run(application(settings.model_copy(update={"index_version": 2})), name="syncytium")

        statuses, took = under_load(port, callers, seconds, kill_and_swap)
    name = f"a replica killed, an index swapped, {callers} callers: errors among {len(took):,}"
    return [Figure.error(name, wrong(statuses), "answers", 0)]


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
