"""Fixtures of the chaos tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cache_runs import STARTED, cache_command, finish, kill, start
from tests.chaos.namespaces import NamespaceCluster, why_not
from tests.streaming.in_process import hashes
from tests.streaming.inputs import genes, small_counts, small_store

__all__ = [
    "genes",
    "small_counts",
    "small_store",
]


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            kill(process)


@pytest.fixture(scope="session")
def slow_model(genes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Tahoe-x1 large enough that a run over the small store lasts until something happens to it."""
    from engine import models
    from engine.models import tahoe

    directory = tmp_path_factory.mktemp("models") / "slow"
    models.save(tahoe.create(genes, d_model=128, n_layers=3, n_heads=4, max_tokens=512, seed=1), directory)
    return directory


@pytest.fixture(scope="session")
def quiet(small_store: Path, slow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one encoder makes of the small store when nothing happens: object -> hash."""
    output = tmp_path_factory.mktemp("quiet") / "cache"
    code, messages = finish(start(cache_command(small_store, slow_model, output, actors=1)))
    assert code == 0, messages
    return hashes(output)


@pytest.fixture(scope="module")
def namespace_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NamespaceCluster]:
    """A head and a worker of one CPU each; a test that needs more adds them."""
    lacking = why_not()
    if lacking:
        pytest.skip(lacking)
    cluster = NamespaceCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.up(2)
        yield cluster
    finally:
        cluster.down()
