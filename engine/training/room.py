"""What training workers and encoder actors reserve in Ray, so that both fit beside each other."""

from dataclasses import dataclass

from engine.training.options import TrainingOptions
from storage.errors import InputError

# What a worker leaves of its last core to the encoders, where all compute on CPUs: two workers and an
# encoder then fit on two cores, and cores do not idle while workers wait for tokens.
LEFT_CPUS = 0.5
# A worker's part of a GPU that it shares with an encoder. More than half, so that two workers never do.
SHARED_GPU = 0.6


@dataclass(frozen=True)
class Room:
    """Reservations of each worker; the number of encoder actors, and the reservations of each of those."""

    worker_cpus: float
    worker_gpus: float
    actors: int = 0
    actor_cpus: float = 0.0
    actor_gpus: float = 0.0


def plan_room(
    options: TrainingOptions, actors: int | None, *, cpus: float, gpus: float, grows: bool = False
) -> Room:
    """Room for the workers and for `actors` encoders (0: none, None: as many as the workers leave room for).

    `cpus`, `gpus`: what Ray has. Raises InputError when they do not fit and Ray has no autoscaler (`grows`):
    they would wait for ever.
    """
    if not grows:
        _require_workers(options, cpus, gpus)
    if actors == 0:
        return Room(options.cpus_per_worker, 1.0 if gpus else 0.0)
    room = _on_gpus(options, actors, gpus) if gpus else _on_cpus(options, actors, cpus)
    used_cpus = options.workers * room.worker_cpus + room.actors * room.actor_cpus
    used_gpus = options.workers * room.worker_gpus + room.actors * room.actor_gpus
    if not grows and (used_cpus > cpus or used_gpus > gpus):
        raise InputError(
            f"{options.workers} workers and {room.actors} encoders need {used_cpus:g} cores"
            + (f" and {used_gpus:g} GPUs" if gpus else "")
            + f"; Ray has {cpus:g}"
            + (f" and {gpus:g}" if gpus else "")
            + ". Lower --actors, --workers or --cpus-per-worker, or give --address."
        )
    return room


def _on_cpus(options: TrainingOptions, actors: int | None, cpus: float) -> Room:
    worker = options.cpus_per_worker - LEFT_CPUS
    left = cpus - options.workers * worker
    n_actors = actors or max(1, int(left))
    # One encoder runs on whatever is left; several have a core each.
    return Room(worker, 0.0, n_actors, actor_cpus=min(1.0, left) if n_actors == 1 and left > 0 else 1.0)


def _on_gpus(options: TrainingOptions, actors: int | None, gpus: float) -> Room:
    """A GPU each where there are enough; else each encoder shares the GPU of a worker."""
    left = int(gpus) - options.workers
    # Half a core to an encoder: it waits for its GPU, and others read and tokenise for it.
    if left >= (actors or 1):
        return Room(options.cpus_per_worker, 1.0, actors or left, LEFT_CPUS, 1.0)
    return Room(
        options.cpus_per_worker - LEFT_CPUS, SHARED_GPU, actors or options.workers, LEFT_CPUS, 1 - SHARED_GPU
    )


def _require_workers(options: TrainingOptions, cpus: float, gpus: float) -> None:
    wanted = options.workers * options.cpus_per_worker
    if 0 < cpus < wanted:
        raise InputError(
            f"{options.workers} workers with {options.cpus_per_worker} cores each need {wanted} cores; Ray "
            f"has {cpus:g}. Lower --workers or --cpus-per-worker, or give --address."
        )
    if 0 < gpus < options.workers:
        raise InputError(
            f"{options.workers} workers need a GPU each; Ray has {gpus:g}. Lower --workers, or give "
            "--address."
        )
