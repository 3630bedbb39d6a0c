"""Fixtures shared by all tests: the shared folder, and one Ray cluster per run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.faulty_store import faulty_store, object_store

__all__ = ["REPOSITORY", "faulty_store", "object_store"]

REPOSITORY = Path(__file__).resolve().parent.parent

# Before anything imports ray: the session's workers inherit these.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
# Where other tests keep the cores busy, a group of workers may take longer than Ray's minute to import torch.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
os.environ.setdefault("RAY_enable_metrics_collection", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")


_RAY, _MACHINES = "ray", "machines"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """How `make test` shares the tests out to its processes, one group after the other.

    One process begins with all tests of the one Ray cluster and goes on to SLURM; one has those of the
    cluster of several machines and the other chaos tests; one begins with the files that need none of these.
    Tests with processes of their own wait for them, so there is one process of tests more than there are
    cores; where more than two start clusters at once, Ray gives up machines that take too long.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_place(item)[1]))
    items.sort(key=lambda item: _place(item)[0])


def _place(item: pytest.Item) -> tuple[int, str]:
    """When it is to run, and with which others, one after the other in one process."""
    file = item.path.relative_to(REPOSITORY / "tests").as_posix()
    fixtures = getattr(item, "fixturenames", ())
    if "ray_cluster" in fixtures:
        return 0, _RAY
    if "slurm" in fixtures:
        return 1, _RAY
    if "namespace_cluster" in fixtures:
        return 2, _MACHINES
    return (3, _MACHINES) if file.startswith("chaos/") else (4, file)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden outputs; not part of the repository."""
    path = Path(os.environ.get("SYNCYTIUM_SHARED", REPOSITORY.parent / "shared"))
    if not (path / "golden").is_dir():
        pytest.skip(f"needs the shared data folder ({path} is not there; set SYNCYTIUM_SHARED)")
    return path


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One embedded Ray for the whole run, with room for two trainers' workers on two cores."""
    from engine import ray_session
    from engine.serving import front

    with front.on_this_machine() as environment, ray_session.connect("local", 4, environment):
        yield
