"""An S3 server on this machine that can be told to fail: the object store of all tests that need one.

moto behind a layer of our own that, for a share of requests or for the next ones in a list, answers 503 or
500, stalls, resets the connection before or after doing what was asked, or cuts an answer short.
"""

import random
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import fsspec
import pytest

BUCKET = "syncytium"

# What it can do to a request. "lost": done, but the answer never arrives. "cut": half of the answer arrives.
FAULTS = ("SlowDown", "InternalError", "reset", "lost", "cut", "slow")
STATUS = {"SlowDown": "503 Slow Down", "InternalError": "500 Internal Server Error"}


class FaultyStore:
    """`trouble`: share of requests that meet each fault. `script`: faults of the next requests."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.url = f"s3://{BUCKET}"
        self.slow_seconds = 0.2
        self._chance, self._lock = random.Random(0), threading.Lock()
        self.calm()

    def calm(self) -> None:
        """Be an ordinary server."""
        self.trouble: Mapping[str, float] = {}
        self.script: deque[str | None] = deque()
        self.met: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        fault = self._next_fault()
        if fault in STATUS:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = f"<Error><Code>{fault}</Code><Message>Reduce your request rate.</Message></Error>".encode()
            start_response(STATUS[fault], [("Content-Length", str(len(body)))])
            return [body]
        if fault == "slow":
            time.sleep(self.slow_seconds)
        if fault == "reset":
            _reset(environ["werkzeug.socket"])
        answer = self.app(environ, start_response)
        if fault == "lost":
            b"".join(answer)
            _reset(environ["werkzeug.socket"])
        return _half(answer, environ["werkzeug.socket"]) if fault == "cut" else answer

    def _next_fault(self) -> str | None:
        with self._lock:
            if self.script:
                fault = self.script.popleft()
            else:
                shares = [self.trouble.get(name, 0.0) for name in FAULTS]
                shares.append(1 - sum(shares))
                (fault,) = self._chance.choices([*FAULTS, None], shares)
            self.met[fault or "none"] += 1
            return fault


def _reset(connection: socket.socket) -> NoReturn:
    # Closing would wait for the server's own reader of the connection.
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError  # werkzeug then says no more about this request


def _half(answer: Iterable[bytes], connection: socket.socket) -> Iterator[bytes]:
    body = b"".join(answer)
    if len(body) < 2:
        yield body
        return
    yield body[: len(body) // 2]
    _reset(connection)


@pytest.fixture(scope="session")
def object_store() -> Iterator[FaultyStore]:
    """The server; the environment of this process and of those it starts points S3 at it."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, *_: Any, **__: Any) -> None:
            pass

    store = FaultyStore(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, store, threaded=True, request_handler=Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3", use_listings_cache=False).mkdir(BUCKET)
    yield store
    patch.undo()
    server.shutdown()


@pytest.fixture
def faulty_store(object_store: FaultyStore) -> Iterator[FaultyStore]:
    """The same, calm again after the test."""
    yield object_store
    object_store.calm()
