"""Parts of some work as tasks of Ray: so many at once, again where a machine is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

_RETRIES = 3


def run_tasks(
    work: Callable[..., int],
    calls: Sequence[tuple[Any, ...]],
    *,
    at_once: int,
    ended: Callable[[int], None],
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> None:
    """`work(*arguments)` for every call, in order of their beginning; `ended` is told what each returned.

    Ray must be connected. at_once: tasks handed to Ray before one of them has ended. Raises what the first
    task that failed raised, and takes the others back.
    """
    import ray

    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES)(work)
    waiting, running = list(reversed(calls)), list[Any]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(task.remote(*waiting.pop()))
            done, running = ray.wait(running, num_returns=1)
            for found in ray.get(done):
                ended(found)
    except ray.exceptions.RayTaskError as error:
        # What the task raised says more than that a task has.
        raise error.cause from error
    finally:
        for left in running:
            ray.cancel(left)
