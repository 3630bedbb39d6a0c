"""Room for workers and encoders beside each other, from a laptop to GPUs."""

import pytest

from engine.training.options import TrainingOptions
from engine.training.room import Room, plan_room
from storage.errors import InputError


def plan(workers: int, actors: int | None, one_machine: bool = True, **have: float) -> Room:
    options = TrainingOptions(steps=1, batch=workers, workers=workers)
    return plan_room(options, actors, have, one_machine=one_machine)


def test_without_encoders_workers_have_whole_cores_and_gpus() -> None:
    assert plan(2, 0, CPU=4) == Room(1, 0)
    assert plan(2, 0, CPU=4, GPU=2) == Room(1, 1)


@pytest.mark.parametrize(
    ("workers", "cpus", "actors"), [(1, 1, 1), (1, 2, 1), (2, 2, 1), (1, 4, 3), (2, 4, 3), (4, 64, 62)]
)
def test_encoders_take_the_cores_that_workers_leave(workers: int, cpus: int, actors: int) -> None:
    room = plan(workers, None, CPU=cpus)
    assert room.actors == actors
    assert workers * room.worker_cpus + actors * room.actor_cpus <= cpus
    assert room.actor_cpus == (0.5 if cpus == 1 else 1)


def test_encoders_take_the_gpus_that_workers_leave() -> None:
    assert plan(1, None, CPU=16, GPU=4) == Room(1, 1, actors=3, actor_cpus=0.5, actor_gpus=1)
    assert plan(1, 2, CPU=16, GPU=4).actors == 2


def test_on_as_many_gpus_as_workers_each_is_shared_by_a_worker_and_an_encoder() -> None:
    room = plan(2, None, CPU=16, GPU=2)
    assert room.actors == 2
    assert room.worker_gpus + room.actor_gpus == 1
    assert room.worker_gpus > 0.5  # or both workers could land on one


@pytest.mark.parametrize(
    ("workers", "actors", "have", "reason"),
    [
        (3, None, {"CPU": 2}, "3 workers with 1 cores each need 3 cores; Ray has 2"),
        (
            2,
            2,
            {"CPU": 2},
            "2 workers and 2 encoders need 3 cores; Ray has 2 on this machine",
        ),
        (1, 4, {"CPU": 8, "GPU": 2}, "2.2 GPUs; Ray has 8 and 2"),
        (2, None, {"CPU": 8, "GPU": 1}, "2 workers need a GPU each"),
    ],
)
def test_what_does_not_fit_one_machine_is_refused(
    workers: int, actors: int | None, have: dict[str, float], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        plan(workers, actors, **have)


def test_a_cluster_may_still_grow() -> None:
    assert plan(8, 4, one_machine=False, CPU=2).actors == 4
