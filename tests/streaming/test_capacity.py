"""How many encoders a stream begins with, and how many it may have."""

from types import SimpleNamespace

import pytest

from engine.streaming import capacity
from engine.streaming.capacity import Capacity, NoRoom, PoolSize, pool_size
from engine.streaming.recipe import Workers

FIXED = Capacity(cpus=8, gpus=0)
GPUS = Capacity(cpus=32, gpus=4, has_gpus=True)
GROWING = Capacity(cpus=4, gpus=0, grows=True, has_gpus=True)


@pytest.mark.parametrize(
    ("there", "workers", "n_devices", "n_members", "expected"),
    [
        (FIXED, Workers(), 1, 100, PoolSize(8, 8, 0.75)),
        (FIXED, Workers(threads=3), 1, 100, PoolSize(2, 2, 2.75)),
        (FIXED, Workers(), 4, 100, PoolSize(2, 2, 0.75)),
        (FIXED, Workers(), 1, 3, PoolSize(3, 3, 0.75)),
        (FIXED, Workers(actors=2), 1, 100, PoolSize(2, 2, 0.75)),
        # Room for the eight of today, and for the others once somebody has added a machine.
        (FIXED, Workers(actors=12), 1, 100, PoolSize(8, 12, 0.75)),
        (Capacity(1, 0), Workers(), 1, 100, PoolSize(1, 1, 0.75)),
        (Capacity(2, 0), Workers(), 2, 100, PoolSize(1, 1, 0.75)),
        (GPUS, Workers(), 1, 100, PoolSize(4, 100, 0.75)),
        (GPUS, Workers(), 2, 100, PoolSize(2, 2, 0.75)),
        # Nothing there yet that could encode: one encoder is asked for, and more as machines come.
        (GROWING, Workers(), 1, 100, PoolSize(1, 100, 1)),
        (GROWING, Workers(), 8, 100, PoolSize(1, 100, 1)),
        (GROWING, Workers(actors=16), 1, 100, PoolSize(1, 16, 1)),
        (Capacity(64, 0, grows=True), Workers(), 1, 100, PoolSize(64, 100, 1)),
        (Capacity(64, 0, grows=True), Workers(actors=2), 1, 100, PoolSize(2, 2, 1)),
    ],
)
def test_pool_size(there, workers, n_devices, n_members, expected):
    assert pool_size(there, workers, n_devices, n_members) == expected


@pytest.mark.parametrize(
    ("there", "workers", "n_devices"),
    [
        (Capacity(1, 0), Workers(), 2),
        (FIXED, Workers(threads=16), 1),
        (Capacity(64, 1, has_gpus=True), Workers(), 2),
    ],
)
def test_an_encoder_that_fits_nowhere_is_refused(there, workers, n_devices):
    with pytest.raises(NoRoom, match="the cluster has"):
        pool_size(there, workers, n_devices, 100)


def test_an_autoscalers_machines_count_before_they_are_there(monkeypatch, ray_cluster):
    assert Capacity.now() == Capacity(cpus=4, gpus=0, grows=False, has_gpus=False)
    head = SimpleNamespace(resources={"CPU": 2}, min_count=0, max_count=0)
    gpu = SimpleNamespace(resources={"CPU": 16, "GPU": 8}, min_count=0, max_count=4)
    monkeypatch.setattr(capacity, "_kinds_of_machine", lambda: [head, gpu])
    assert Capacity.now() == Capacity(cpus=4, gpus=0, grows=True, has_gpus=True)
    monkeypatch.setattr(capacity, "_kinds_of_machine", lambda: [head])
    assert not Capacity.now().grows
