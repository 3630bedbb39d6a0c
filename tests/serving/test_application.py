"""The application on a real Ray Serve: HTTP, an index swapped while it is asked, a replica killed."""

import shutil
import socket
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from engine.serving.application import build
from engine.serving.settings import Settings
from storage.index import VectorIndex, versions

SECONDS = 120


def version_answered(answers: list[httpx.Response], version: int) -> bool:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if answers and answers[-1].json().get("index_version") == version:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_a_swap_and_a_kill_drop_nothing(ray_cluster: None, served: Settings, tmp_path: Path) -> None:
    import ray
    from ray import serve

    shutil.copytree(served.index, tmp_path / "index")
    settings = Settings(index=str(tmp_path / "index"), replicas=2, limits={"requests_per_minute": 1_000_000})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    answers: list[httpx.Response] = []
    stop = threading.Event()

    def ask() -> None:
        body = {"like": {"where": "cell_type = 'B cell'"}, "k": 3}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as client:
            while not stop.is_set():
                answers.append(client.post("/v1/search", json=body))

    try:
        serve.run(build(settings), name="syncytium")
        asking = [threading.Thread(target=ask) for _ in range(2)]
        for thread in asking:
            thread.start()
        assert version_answered(answers, 1)
        versions.delete(VectorIndex.open(settings.index), np.array([0]))
        serve.run(build(settings.model_copy(update={"index_version": 2})), name="syncytium")
        assert version_answered(answers, 2)
        named = ray.util.list_named_actors(all_namespaces=True)
        victim = next(actor for actor in named if "#CellRoom#" in actor["name"])
        before = len(answers)
        ray.kill(ray.get_actor(victim["name"], namespace=victim["namespace"]), no_restart=True)
        deadline = time.monotonic() + SECONDS
        while len(answers) < before + 40 and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()
        for thread in asking:
            thread.join()
        assert len(answers) >= before + 40
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["index_version"] for answer in answers} == {1, 2}
    finally:
        stop.set()
        serve.shutdown()
