"""Room for workers and encoders beside each other, from a laptop to GPUs."""

import pytest

from engine.training.options import TrainingOptions
from engine.training.room import Room, plan_room
from storage.errors import InputError


def plan(workers: int, actors: int | None, cpus: float, gpus: float = 0, grows: bool = False) -> Room:
    options = TrainingOptions(steps=1, batch=workers, workers=workers)
    return plan_room(options, actors, cpus=cpus, gpus=gpus, grows=grows)


def test_without_encoders_workers_have_whole_cores_and_gpus() -> None:
    assert plan(2, 0, 4) == Room(1, 0)
    assert plan(2, 0, 4, 2) == Room(1, 1)


@pytest.mark.parametrize(
    ("workers", "cpus", "actors"), [(1, 1, 1), (1, 2, 1), (2, 2, 1), (1, 4, 3), (2, 4, 3), (4, 64, 62)]
)
def test_encoders_take_the_cores_that_workers_leave(workers: int, cpus: int, actors: int) -> None:
    room = plan(workers, None, cpus)
    assert room.actors == actors
    assert workers * room.worker_cpus + actors * room.actor_cpus <= cpus
    assert room.actor_cpus == (0.5 if cpus == 1 else 1)


def test_encoders_take_the_gpus_that_workers_leave() -> None:
    assert plan(1, None, 16, 4) == Room(1, 1, actors=3, actor_cpus=0.5, actor_gpus=1)
    assert plan(1, 2, 16, 4).actors == 2


def test_on_as_many_gpus_as_workers_each_is_shared_by_a_worker_and_an_encoder() -> None:
    room = plan(2, None, 16, 2)
    assert room.actors == 2
    assert room.worker_gpus + room.actor_gpus == 1
    assert room.worker_gpus > 0.5  # or both workers could land on one


@pytest.mark.parametrize(
    ("workers", "actors", "cpus", "gpus", "reason"),
    [
        (3, None, 2, 0, "3 workers with 1 cores each need 3 cores; Ray has 2"),
        (
            2,
            2,
            2,
            0,
            "2 workers and 2 encoders need 3 cores; Ray has 2",
        ),
        (1, 4, 8, 2, "2.2 GPUs; Ray has 8 and 2"),
        (2, None, 8, 1, "2 workers need a GPU each"),
    ],
)
def test_what_does_not_fit_is_refused(
    workers: int, actors: int | None, cpus: float, gpus: float, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        plan(workers, actors, cpus, gpus)


def test_a_cluster_that_grows_makes_room() -> None:
    assert plan(8, 4, cpus=2, grows=True).actors == 4
