"""The application on a real Ray Serve: an index swapped while it is asked, a replica killed, overload."""

import asyncio
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from engine.serving import application, front
from engine.serving.application import build
from engine.serving.settings import Limits, Settings
from storage.index import VectorIndex, versions

SECONDS = 300


def version_answered(answers: list[httpx.Response], version: int) -> bool:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if answers and answers[-1].json().get("index_version") == version:
            return True
        time.sleep(0.05)
    return False


def full_queues_say_when_to_come_back(url: str) -> None:
    """With the options that each of our deployments has, on one that is as slow as it is told."""
    from ray import serve

    # In here, so that its replica need not import this file.
    class Slow:
        async def __call__(self, request: object) -> str:
            await asyncio.sleep(float(request.query_params["seconds"]))  # type: ignore[attr-defined]
            return "done"

    limits = Limits(ongoing=1, queued=1)
    slow = application._deployment(Slow, "Slow", Settings(index="none", limits=limits))
    serve.run(slow.bind(), name="slow", route_prefix="/slow")
    with ThreadPoolExecutor(12) as threads:
        sent = [threads.submit(httpx.get, url, params={"seconds": 3}, timeout=SECONDS) for _ in range(12)]
        answers = [each.result() for each in sent]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < len(answers)
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} == {(503, "1")}
    # And all is well again.
    assert httpx.get(url, params={"seconds": 0}, timeout=SECONDS).status_code == 200


@pytest.mark.slow
def test_a_swap_and_a_kill_drop_nothing(ray_cluster: None, served: Settings, tmp_path: Path) -> None:
    import ray
    from ray import serve

    shutil.copytree(served.index, tmp_path / "index")
    settings = Settings(index=str(tmp_path / "index"), replicas=2, limits={"requests_per_minute": 1_000_000})
    (port,) = front.free_ports(1)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    answers: list[httpx.Response] = []
    lost: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        body = {"like": {"where": "cell_type = 'B cell'"}, "k": 3}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
            while not stop.is_set():
                try:
                    answers.append(client.post("/v1/search", json=body))
                except httpx.TransportError as error:
                    lost.append(f"after {len(answers)} answers, {phase}: {error!r}")
                # New replicas start on the same cores.
                time.sleep(0.05)

    phase = "swap"
    try:
        serve.run(build(settings), name="syncytium")
        asking = [threading.Thread(target=ask) for _ in range(2)]
        for thread in asking:
            thread.start()
        assert version_answered(answers, 1)
        versions.delete(VectorIndex.open(settings.index), np.array([0]))
        serve.run(build(settings.model_copy(update={"index_version": 2})), name="syncytium")
        assert version_answered(answers, 2)
        before = len(answers)
        # A room's replica first, and then one that has connections of callers.
        for room in ("#CellRoom#", "#Door#"):
            phase = room
            named = ray.util.list_named_actors(all_namespaces=True)
            victim = next(actor for actor in named if room in actor["name"])
            ray.kill(ray.get_actor(victim["name"], namespace=victim["namespace"]), no_restart=True)
            before, deadline = len(answers), time.monotonic() + SECONDS
            while len(answers) < before + 40 and time.monotonic() < deadline:
                time.sleep(0.05)
        stop.set()
        for thread in asking:
            thread.join()
        assert len(answers) >= before + 40
        assert lost == []
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["index_version"] for answer in answers} == {1, 2}
        full_queues_say_when_to_come_back(f"http://127.0.0.1:{port}/slow")
    finally:
        stop.set()
        serve.shutdown()
