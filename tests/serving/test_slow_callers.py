"""Callers that send slowly, read slowly or hang up hold nothing up and leave nothing behind."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import httpx
import pytest

from engine.serving.api import create_api
from engine.serving.doors import Doors
from engine.serving.routes import chat
from engine.serving.settings import Limits
from tests.serving.listening import listening, until

BODY_SECONDS, READ_SECONDS = 3.0, 0.5
ASK = {"text": "B cell"}


@pytest.fixture
def port(doors: Doors) -> Iterator[int]:
    limits = Limits(body_seconds=BODY_SECONDS, read_seconds=READ_SECONDS, requests_per_minute=100_000)
    settings = doors.settings.model_copy(update={"limits": limits})
    with listening(create_api(replace(doors, settings=settings))) as found:
        yield found


def request(path: str, body: bytes, length: int) -> bytes:
    head = ["Host: x", "Content-Type: application/json", f"Content-Length: {length}", "", ""]
    return "\r\n".join([f"POST {path} HTTP/1.1", *head]).encode() + body


def answer_of(connection: socket.socket) -> bytes:
    """All that comes until the other side hangs up."""
    connection.settimeout(60)
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def test_a_body_that_never_ends_is_given_up_and_others_are_answered(port: int) -> None:
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    try:
        for connection in slow:
            connection.sendall(request("/v1/search", b'{"text": "B', 1_000))
        assert httpx.post(f"http://127.0.0.1:{port}/v1/search", json=ASK, timeout=60).status_code == 200
        # They go on, a byte at a time, which makes no difference.
        slow[0].sendall(b" ")
        for connection in slow:
            answer = answer_of(connection)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_slow"
    finally:
        for connection in slow:
            connection.close()


def test_an_answer_that_nobody_takes_is_given_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far more than the buffers of two sockets."""
    ended = []

    async def endless(*_: object) -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * 1_000_000
                await asyncio.sleep(0)
        finally:
            ended.append(True)

    monkeypatch.setattr(chat, "_chunks", endless)
    body = json.dumps({"messages": [{"role": "user", "content": "B cell"}], "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(request("/v1/chat/completions", body, len(body)))
        assert slow.recv(10).startswith(b"HTTP/1.1 2")
        assert httpx.post(f"http://127.0.0.1:{port}/v1/search", json=ASK, timeout=60).status_code == 200
        until(lambda: ended)


def test_a_stream_that_is_aborted_leaves_no_work(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = [], []

    async def words(*_: object) -> AsyncIterator[str]:
        begun.append(True)
        try:
            yield "These "
            await asyncio.sleep(3_600)
        finally:
            ended.append(True)

    monkeypatch.setattr(chat, "answer_to", words)
    body = {"messages": [{"role": "user", "content": "B cell"}], "stream": True}
    for _ in range(3):
        with httpx.stream(
            "POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60
        ) as answer:
            assert "evidence" in next(answer.iter_lines())
    until(lambda: len(ended) == len(begun) == 3)
