"""A served index of made-up cells under a joint model with MiniLM, on a real Ray Serve, and a client."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from engine import ray_session
from engine.models import joint, tahoe
from engine.retrieval.build import IndexOptions, Source, build
from engine.retrieval.texts import describe_joint
from engine.serving import front
from engine.serving.application import build as application
from engine.serving.settings import Limits, Settings
from jobs.demo_text import minilm_directory
from storage.locations import Location
from tests.benchmarks.vectors.clustered import clustered
from tests.retrieval.inputs import write_embeddings

WIDTH, QUERIES = 512, 50
CELL_TYPES = ("T cell", "B cell", "monocyte", "natural killer cell", "neuron", "hepatocyte", "fibroblast")
STATES = ("activated", "naive", "proliferating", "exhausted", "infected", "quiescent", "mature", "immature")
TISSUES = ("blood", "lung", "liver", "skin", "brain", "kidney", "tonsil", "spleen", "colon", "heart")


def texts(n: int, seed: int = 0) -> list[str]:
    """Distinct descriptions of some 12 words."""
    draw = np.random.default_rng(seed)
    return [
        f"A sample of {draw.choice(STATES)} {draw.choice(CELL_TYPES)} from the {draw.choice(TISSUES)} of "
        f"donor {number} in study {seed}"
        for number in range(n)
    ]


def prepare(folder: Path, n_cells: int) -> Settings:
    """An index of `n_cells` cells of 512 dimensions, made under a joint model whose texts MiniLM embeds.
    Beside it `queries.npy`: some vectors that are to its cells what texts are.
    """
    tower = tahoe.create(
        [f"ENSG{i:011d}" for i in range(32)], d_model=32, n_layers=1, n_heads=2, max_tokens=16
    )
    joint.save(joint.create(tower, minilm_directory(), width=WIDTH, seed=0), folder / "joint")
    made = clustered(n_cells, WIDTH, QUERIES)
    np.save(folder / "queries.npy", made.text)
    write_embeddings(str(folder / "embeddings"), made.cells, made.obs, chunk=4_096)
    return indexed(folder, "index")


def indexed(folder: Path, name: str, n_lists: int = 0) -> Settings:
    """An index of the cells of `prepare`, with so many inverted lists."""
    source = Source.open(str(folder / "embeddings"), None, None)
    known = describe_joint(str(folder / "joint"))
    build(source, Location.of(folder / name), IndexOptions(ivf_lists=n_lists), joint=known)
    return Settings(index=str(folder / name), limits=Limits(requests_per_minute=10_000_000))


@contextmanager
def own_ray() -> Iterator[None]:
    """As `serve` starts it; the one there is, if there is one."""
    with front.on_this_machine() as environment, ray_session.connect("local", 2, environment):
        yield


@contextmanager
def serving(settings: Settings) -> Iterator[int]:
    """The port of the application on an embedded Ray."""
    from ray import serve

    (port,) = front.free_ports(1)
    with own_ray():
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        try:
            serve.run(application(settings), name="syncytium")
            yield port
        finally:
            serve.shutdown()


class Client:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, float]:
        """Status, and milliseconds until the whole answer was here."""
        content = None if body is None else json.dumps(body).encode()
        began = time.perf_counter()
        self._connection.request(method, path, content, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        response.read()
        return response.status, 1e3 * (time.perf_counter() - began)

    def close(self) -> None:
        self._connection.close()
