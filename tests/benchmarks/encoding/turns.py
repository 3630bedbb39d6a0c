"""Measuring pieces of work in turns, so that whatever else the machine does hits all of them alike."""

import time
from collections.abc import Iterator, Mapping
from typing import Any


def cpu_seconds(works: Mapping[str, Iterator[Any]]) -> dict[str, float]:
    """CPU-seconds of each work. A work is a generator that yields between steps of like size."""
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
