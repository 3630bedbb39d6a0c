"""Faults of an object store that pass, and how long we wait for that.

Stores answer 503 when they are asked too fast, cut connections and stall; every one of them documents that
clients must ask again, later and later (exponential back-off) and not all at once (jitter). All requests of
`storage.object_stores` are repeated here; nothing else in the house repeats one.
"""

from __future__ import annotations

import errno
import http.client
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from storage.errors import StoreUnavailable

Answer = TypeVar("Answer")

# Ten requests with nine waits between them: half a minute on average, a minute at most. Longer than a
# store takes to move a prefix to more servers, shorter than a person takes to wonder.
ATTEMPTS = int(os.environ.get("SYNCYTIUM_STORE_ATTEMPTS", "10"))
FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 20.0

# Asked too fast, still busy with another write of the same name, broken inside, gateway trouble.
_PASSING_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_PASSING_ERRNO = {
    errno.EBUSY,
    errno.EREMOTEIO,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
}
# Network trouble that the drivers pass on as they met it, and that is no OSError. Named, not imported: which
# driver there is depends on the store.
_PASSING_CLASSES = {
    "aiohttp.client_exceptions.ClientConnectionError",
    "aiohttp.client_exceptions.ClientPayloadError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "botocore.parsers.ResponseParserError",
}


def until_it_works(request: Callable[[], Answer], what: str) -> Answer:
    """The answer to a request that may be sent again, sent again while it fails for a reason that passes.

    `what` names the object in the error. Raises StoreUnavailable when the store does not recover, and at once
    whatever else the request raises.
    """
    for wait in waits():
        try:
            return request()
        except Exception as error:
            if not passes(error):
                raise
            if wait is None:
                raise unavailable(what, error) from error
            time.sleep(wait)
    raise AssertionError("the last wait is None")


def waits() -> Iterator[float | None]:
    """Seconds to wait after each failed request; None after the last.

    Anything between nothing and a bound that doubles, so that workers that failed together do not come back
    together.
    """
    for attempt in range(ATTEMPTS - 1):
        yield random.uniform(0, min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**attempt))
    yield None


def passes(error: BaseException) -> bool:
    """Whether asking again may help."""
    if isinstance(error, StoreUnavailable | FileNotFoundError | FileExistsError | PermissionError):
        return False
    if isinstance(error, ConnectionError | TimeoutError | http.client.HTTPException):
        return True
    if any(f"{kind.__module__}.{kind.__name__}" in _PASSING_CLASSES for kind in type(error).__mro__):
        return True
    status = _http_status(error)
    if status is not None:
        return status in _PASSING_STATUS
    return isinstance(error, OSError) and error.errno in _PASSING_ERRNO


def unavailable(what: str, error: BaseException) -> StoreUnavailable:
    return StoreUnavailable(
        f"{what}: the store did not recover in {ATTEMPTS} requests (the last one: {type(error).__name__}: "
        f"{error}). What is committed is kept; run the same command again when the store is well"
    )


def _http_status(error: BaseException) -> int | None:
    """What the server answered, if it did: each driver keeps it elsewhere, and s3fs in the cause."""
    for found in (error, error.__cause__):
        answer = getattr(found, "response", None)
        if isinstance(answer, dict):  # botocore
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if isinstance(status, int):
                return status
        for field in ("status", "status_code", "code"):  # aiohttp, azure, gcsfs
            status = getattr(found, field, None)
            if isinstance(status, int):
                return status
    return None
