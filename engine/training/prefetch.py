"""Making batches while the model computes."""

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetched(source: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The same values, made by a thread up to `depth` ahead; an error of the source is raised in its place.

    The thread ends when the returned generator is closed or the source ends.
    """
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
    over = threading.Event()

    def offer(more: bool, value: T | BaseException | None) -> bool:
        while not over.is_set():
            try:
                ready.put((more, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for value in source:
                if not offer(True, value):
                    return
            offer(False, None)
        except BaseException as error:  # noqa: BLE001 - carried to the reader's thread and raised there
            offer(False, error)

    threading.Thread(target=work, daemon=True, name="batches").start()
    try:
        while True:
            more, value = ready.get()
            if more:
                yield value  # type: ignore[misc]
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        over.set()
