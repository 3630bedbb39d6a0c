"""Which failures pass, and how long we wait for that."""

import errno
from collections.abc import Callable

import pytest

from storage import retries
from storage.errors import StoreUnavailable


class Answered(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


def translated(status: int) -> OSError:
    """As s3fs reports it: an OSError whose cause holds the answer."""
    error, cause = OSError(errno.EIO, "said the server"), Exception("client error")
    cause.response = {"ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        Answered(429),
        Answered(503),
        translated(502),
        OSError(errno.EBUSY, "SlowDown"),
        ConnectionResetError(),
        TimeoutError(),
    ],
)
def test_what_passes(error: Exception) -> None:
    assert retries.passes(error)


@pytest.mark.parametrize(
    "error",
    [
        Answered(403),
        translated(400),
        FileNotFoundError(),
        PermissionError(),
        FileExistsError(),
        OSError(errno.ENOSPC, "full"),
        ValueError(),
        StoreUnavailable("down"),
    ],
)
def test_what_stays(error: Exception) -> None:
    assert not retries.passes(error)


def failing(times: int, error: Exception) -> Callable[[], str]:
    failures = iter([error] * times)

    def request() -> str:
        for failure in failures:
            raise failure
        return "answer"

    return request


def test_waits_grow_up_to_a_bound_and_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", slept.append)
    monkeypatch.setattr(retries.random, "uniform", lambda low, high: high)
    assert retries.until_it_works(failing(9, TimeoutError()), "reading it") == "answer"
    assert slept == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20.0, 20.0]
    monkeypatch.undo()
    assert len({wait for _ in range(5) for wait in retries.waits()}) > 40


def test_the_last_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries.time, "sleep", lambda _: None)
    with pytest.raises(StoreUnavailable, match=r"reading it: .* 10 requests .*TimeoutError: gone"):
        retries.until_it_works(failing(10, TimeoutError("gone")), "reading it")


def test_what_stays_is_raised_at_once() -> None:
    with pytest.raises(ValueError, match="wrong"):
        retries.until_it_works(failing(1, ValueError("wrong")), "reading it")
