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


_RAY, _MACHINES, _FILES, _CHAOS, _SLURM = "ray", "machines", "", "chaos", "slurm"
_ORDER = (_RAY, _MACHINES, _FILES, _CHAOS, _SLURM)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """How `make test` shares the tests out to its processes, one group after the other.

    One process begins with all tests of the one Ray cluster, one with those of the cluster of several
    machines, one with the files that need neither; the other tests that start clusters come last. Tests with
    processes of their own wait for them, so there is one process of tests more than there are cores.
    """
    for item in items:
        group = _group(item)
        item.add_marker(
            pytest.mark.xdist_group(group or item.path.relative_to(REPOSITORY / "tests").as_posix())
        )
    items.sort(key=lambda item: _ORDER.index(_group(item)))


def _group(item: pytest.Item) -> str:
    fixtures = getattr(item, "fixturenames", ())
    if "ray_cluster" in fixtures:
        return _RAY
    if "namespace_cluster" in fixtures:
        return _MACHINES
    if item.path.is_relative_to(REPOSITORY / "tests" / "chaos"):
        return _CHAOS
    return _SLURM if "slurm" in fixtures else _FILES


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
