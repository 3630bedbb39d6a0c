"""Fixtures of the chaos tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cache_runs import STARTED, kill, quiet_hashes
from tests.chaos.namespaces import NamespaceCluster
from tests.chaos.switch import why_not
from tests.streaming.inputs import genes, small_counts, small_store, tahoe_model

__all__ = [
    "genes",
    "small_counts",
    "small_store",
    "tahoe_model",
]


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            kill(process)


@pytest.fixture(scope="session")
def quiet(small_store: Path, tahoe_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `cache` makes of the small store when nothing happens: object -> hash."""
    return quiet_hashes(small_store, tahoe_model, tmp_path_factory.mktemp("quiet") / "cache")


@pytest.fixture(scope="session")
def one_ray() -> Iterator[str]:
    """Address of a Ray for all tests of this process that leave it alone."""
    import ray

    from engine import ray_session

    with ray_session.connect("local", num_cpus=4):
        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def namespace_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NamespaceCluster]:
    """One for all tests: a head, which takes jobs, and a worker, of one CPU each."""
    lacking = why_not()
    if lacking:
        pytest.skip(lacking)
    cluster = NamespaceCluster(tmp_path_factory.mktemp("cluster"), dashboard=True)
    try:
        cluster.up(2)
        yield cluster
    finally:
        cluster.down()
