"""HAProxy with the configuration that Ray Serve writes, as we amend it."""

import http.client
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from engine.serving import front, haproxy
from tests.serving.listening import until

# The lines of Ray's template that matter here.
CONFIGURATION = """global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    option redispatch 1
    retry-on conn-failure empty-response
    retries 5
frontend callers
    bind *:{port}
    default_backend replicas
backend replicas
    balance roundrobin
    server dying 127.0.0.1:{dying}
    server living 127.0.0.1:{living}
"""

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"


def test_ray_writes_what_we_amend():
    amended = haproxy.amended(HAPROXY_CONFIG_TEMPLATE, loopback=True)
    assert amended.count("option http-buffer-request") == 1
    assert "bind *:" not in amended
    assert "bind :" not in amended
    assert "bind *:" in haproxy.amended(HAPROXY_CONFIG_TEMPLATE, loopback=False)


def test_another_configuration_is_refused():
    with pytest.raises(ValueError, match="not known"):
        haproxy.amended(CONFIGURATION.replace("mode http", "mode tcp"), loopback=True)


@contextmanager
def replica(dies: bool, asked: list[str]) -> Iterator[int]:
    """Port of a server that answers with what it was sent, or reads it and closes without a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    question = connection.recv(65_536)
                    asked.append("dying" if dies else "living")
                    if dies:
                        continue
                    head, _, body = question.partition(b"\r\n\r\n")
                    assert b"content-length: 4" in head.lower()
                    body += b"" if len(body) == 4 else connection.recv(4)
                    connection.sendall(ANSWER + body)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def reached(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_a_question_in_two_packets_outlives_the_replica_that_had_it(tmp_path: Path, monkeypatch):
    """As HTTP clients send it: the body in a packet of its own, which a busy machine sends a while later."""
    monkeypatch.setenv(haproxy.LOOPBACK, "1")
    command = Path(sysconfig.get_path("scripts"), "syncytium-haproxy")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(command))
    asked: list[str] = []
    with ExitStack() as open_things:
        dying = open_things.enter_context(replica(True, asked))
        living = open_things.enter_context(replica(False, asked))
        (port,) = front.free_ports(1)
        configuration = tmp_path / "haproxy.cfg"
        configuration.write_text(CONFIGURATION.format(port=port, dying=dying, living=living))
        process = subprocess.Popen([command, "-db", "-f", configuration])
        open_things.callback(process.wait)
        open_things.callback(process.kill)
        until(lambda: reached(port) or process.poll() is not None)
        assert process.poll() is None
        answers = []
        for _ in range(4):
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                connection.putrequest("POST", "/v1/search")
                connection.putheader("Content-Length", "4")
                connection.endheaders()
                time.sleep(0.1)
                connection.send(b"cell")
                answers.append(connection.getresponse().read())
    assert answers == [b"cell"] * 4
    assert {"dying", "living"} == set(asked)
