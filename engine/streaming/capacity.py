"""What the connected Ray can run: the machines it has, and whether it may get more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import state

from engine.streaming.recipe import Workers

# Claimed by a stage that mostly waits. Each encoder of a cluster that cannot grow leaves as much of its last
# CPU to the stages that feed it and commit for it: on a small machine nothing would be committed until
# everything had been read.
IO_CPUS = 0.25

# Of a task or an actor. Ray Data's default is to retry for ever, so that one poison member would be retried
# for ever.
RETRIES = 3


class NoRoom(RuntimeError):
    """Not even one encoder fits; on a larger cluster the same command goes on from here."""


@dataclass(frozen=True)
class Capacity:
    """cpus, gpus: of the machines there now. grows: an autoscaler may add machines. has_gpus: machines that
    are there, or that it may add, have some.
    """

    cpus: float
    gpus: int
    grows: bool = False
    has_gpus: bool = False

    @classmethod
    def now(cls) -> Capacity:
        resources = ray.cluster_resources()
        cpus, gpus = float(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        # An autoscaler (KubeRay's, for one) tells Ray the kinds of machine it may start; without one there
        # are none. Ray Data's own autoscaling asks in the same way; there is no public one.
        kinds = [kind for kind in _kinds_of_machine() if kind.resources and kind.max_count != 0]
        return cls(
            cpus=cpus,
            gpus=gpus,
            grows=any(kind.max_count == -1 or kind.max_count > kind.min_count for kind in kinds),
            has_gpus=gpus > 0 or any(kind.resources.get("GPU", 0) > 0 for kind in kinds),
        )


@dataclass(frozen=True)
class PoolSize:
    """Encoders to begin with, and the most there may be. cpus_per_device: what each process of one claims."""

    initial: int
    most: int
    cpus_per_device: float


def pool_size(capacity: Capacity, workers: Workers, n_devices: int, n_members: int) -> PoolSize:
    """How many encoders of `n_devices` each a stream of `n_members` gets.

    It begins with those that fit today, at most `workers.actors`. It may grow to `workers.actors`, or without
    that as far as there are members where the cluster may grow; Ray Data starts no more than fit. So it does
    for whole GPUs on any cluster, which may have been given a machine by hand. On CPUs without an autoscaler
    it stays at one encoder for each `workers.threads` CPUs, though what they leave unclaimed would fit more.
    Raises NoRoom when none fits and none ever will.
    """
    cpus = workers.threads if capacity.grows else workers.threads - IO_CPUS
    if capacity.has_gpus:
        fit, there = capacity.gpus // n_devices, f"{n_devices} GPUs, and the cluster has {capacity.gpus}"
    else:
        fit = int(capacity.cpus) // (workers.threads * n_devices) or int(cpus * n_devices <= capacity.cpus)
        there = f"{workers.threads * n_devices} CPUs, and the cluster has {capacity.cpus:g}"
    if not fit and not capacity.grows:
        raise NoRoom(f"an encoder of {n_devices} processes with {workers.threads} threads needs {there}")
    bounded_by_ray = capacity.grows or (capacity.has_gpus and n_devices == 1)
    most = min(workers.actors or (n_members if bounded_by_ray else fit), n_members)
    return PoolSize(max(1, min(fit, most)), most, cpus)


def _kinds_of_machine() -> list[Any]:
    config = state.get_cluster_config()
    return list(config.node_group_configs) if config else []
