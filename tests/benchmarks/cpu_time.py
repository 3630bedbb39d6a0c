"""CPU-seconds of pieces of work: on a shared machine they say what work costs, the clock does not."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def cpu_seconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def cpu_seconds_in_turns(works: Mapping[str, Iterator[Any]]) -> dict[str, float]:
    """CPU-seconds of each work, taking turns, so that whatever else the machine does hits all of them alike.

    A work is a generator that yields between steps of like size.
    """
    spent = dict.fromkeys(works, 0.0)
    left = dict(works)
    while left:
        for name, work in list(left.items()):
            started = time.process_time()
            try:
                next(work)
            except StopIteration:
                del left[name]
            spent[name] += time.process_time() - started
    return spent
