"""Batches made ahead: same values, errors in their place, no thread left behind."""

import threading
import time
from collections.abc import Iterator

import pytest

from engine.training.prefetch import prefetched


def numbers(stop: int) -> Iterator[int]:
    yield from range(stop)


def test_values_arrive_in_order() -> None:
    assert list(prefetched(numbers(100), depth=3)) == list(range(100))


def test_an_error_is_raised_after_the_values_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    stream = prefetched(failing())
    assert next(stream) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()
    stream = prefetched(numbers(10**9))
    assert next(stream) == 0
    stream.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() <= before
