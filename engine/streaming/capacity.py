"""What the connected Ray can run: the machines it has, and whether it may get more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import state

from engine.streaming.recipe import Workers


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
    """Encoders to begin with, and the most there may be."""

    initial: int
    most: int


def pool_size(
    capacity: Capacity, workers: Workers, n_devices: int, cpus_per_device: float, n_members: int
) -> PoolSize:
    """How many encoders of `n_devices` each a stream gets.

    It begins with those that fit today. It may grow to `workers.actors`, or without that to one per member
    where the cluster may grow, and not at all where it may not.
    Raises NoRoom when none fits and none ever will.
    """
    if capacity.has_gpus:
        fit, of = capacity.gpus // n_devices, f"{n_devices} GPUs; the cluster has {capacity.gpus}"
    else:
        needed = cpus_per_device * n_devices
        fit = int(capacity.cpus) // (workers.threads * n_devices) or int(needed <= capacity.cpus)
        of = f"{n_devices * workers.threads} CPUs; the cluster has {capacity.cpus:g}"
    if not fit and not capacity.grows:
        raise NoRoom(f"an encoder of {n_devices} processes with {workers.threads} threads each needs {of}")
    most = min(workers.actors or (n_members if capacity.grows else fit), n_members)
    return PoolSize(initial=max(1, min(fit, most)), most=most)


def _kinds_of_machine() -> list[Any]:
    config = state.get_cluster_config()
    return list(config.node_group_configs) if config else []
