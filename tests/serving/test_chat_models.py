"""A chat model that reads cells, behind the door: here, in a language model elsewhere, and on Ray Serve."""

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient

from engine.models import chat
from engine.serving import front
from engine.serving.api import create_api
from engine.serving.application import build
from engine.serving.chat.conversation import Wish, turns_of
from engine.serving.doors import Doors
from engine.serving.placement import Inside
from engine.serving.problems import Problem
from engine.serving.rooms.chat import ChatRoom
from engine.serving.settings import Settings
from storage.index import VectorIndex
from tests.serving.test_chat import B_CELLS, MONOCYTES, ask
from tests.training.chat_inputs import trained_chat


@pytest.fixture(scope="session")
def chat_directory(served: Settings, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Trained on the cells of the index."""
    facts = VectorIndex.open(served.index).facts
    embeddings = str(Path(served.index).parent / "embeddings")
    folder = tmp_path_factory.mktemp("chat")
    return trained_chat(str(served.cells), facts["joint"]["path"], embeddings, folder)


@pytest.fixture(scope="session")
def with_chat(doors: Doors, chat_directory: str) -> Doors:
    settings = doors.settings.model_copy(update={"chat": chat_directory})
    return replace(doors, settings=settings, chat=Inside(ChatRoom(settings)))


@pytest.fixture(scope="session")
def asking(with_chat: Doors) -> TestClient:
    return TestClient(create_api(with_chat), raise_server_exceptions=False)


def changed(doors: Doors, chat_room: Any = None, **settings: Any) -> Doors:
    given = doors.settings.model_copy(update=settings)
    return replace(doors, settings=given, chat=chat_room or doors.chat)


def test_it_names_the_cells_and_every_claim_cites(asking: TestClient) -> None:
    for cells, kind in ((B_CELLS, "B cell"), (MONOCYTES, "CD14+ monocyte")):
        found = ask(asking, cells, text="What are these cells?")
        answer = found["choices"][0]["message"]["content"]
        annotations = next(piece for piece in found["evidence"] if piece["kind"] == "annotations")
        assert f"These seem to be {kind}" in answer
        assert f"[{annotations['id']}]" in answer
        assert "not in the evidence" not in answer


def test_two_selections_are_two_places_in_the_prompt(asking: TestClient) -> None:
    answers = [
        ask(asking, *cells, text="How do these two differ?")["choices"][0]["message"]["content"]
        for cells in ((B_CELLS, MONOCYTES), (MONOCYTES, B_CELLS))
    ]
    assert answers[0].index("B cell") < answers[0].index("CD14+ monocyte")
    assert answers[1].index("CD14+ monocyte") < answers[1].index("B cell")


def test_openai_streams_a_conversation(asking: TestClient) -> None:
    openai = pytest.importorskip("openai", reason="needs the openai client")
    api = openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=asking)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [B_CELLS, {"type": "text", "text": "What are these cells?"}]},
    ]
    whole = api.chat.completions.create(model="cells", messages=messages)
    said = whole.choices[0].message.content
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "Describe these cells."}]
    chunks = list(api.chat.completions.create(model="cells", messages=messages, stream=True, max_tokens=40))
    answer = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "[E" in answer
    assert chunks[0].evidence == whole.evidence
    empty = {"type": "cells", "cells": {"where": "cell_type = 'unheard of'"}}
    with pytest.raises(openai.BadRequestError) as refused:
        api.chat.completions.create(model="cells", messages=[{"role": "user", "content": [empty]}])
    assert refused.value.code == "no_evidence"


def test_a_question_without_cells_is_about_what_it_finds(asking: TestClient) -> None:
    found = ask(asking, text="B cell")
    assert found["evidence"][0]["kind"] == "hits"
    assert "These seem to be B cell" in found["choices"][0]["message"]["content"]


def test_turns_of_one_side_are_one_turn() -> None:
    said = [
        chat.Turn("assistant", "Welcome."),
        chat.Turn("user", "", 1),
        chat.Turn("user", "What?", 1),
        chat.Turn("assistant", "B cells."),
    ]
    assert turns_of(said) == (chat.Turn("user", "What?", 2), chat.Turn("assistant", "B cells."))


def test_a_conversation_too_many_is_a_503(chat_directory: str, served: Settings) -> None:
    limits = served.limits.model_copy(update={"conversations": 1})
    room = ChatRoom(served.model_copy(update={"chat": chat_directory, "limits": limits}))
    means_NU = np.ones((1, room.facts()["cell_width"]), np.float32)
    turns = [chat.Turn("user", "What are these cells?", 1)]
    first = room.answer(turns, means_NU, [], Wish(20))
    next(first)
    with pytest.raises(Problem, match="too many conversations") as refused:
        next(room.answer(turns, means_NU, [], Wish(20)))
    assert refused.value.status == 503
    first.close()  # type: ignore[attr-defined]
    assert next(room.answer(turns, means_NU, [], Wish(20)))


@contextmanager
def over_http(doors: Doors) -> Iterator[str]:
    """A real server: the test client reads a stream to its end, whatever is done with it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_api(doors), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_aborted_stream_stops_the_generation(with_chat: Doors) -> None:
    room: ChatRoom = with_chat.chat.room
    assert room._model is not None
    steps: list[int] = []

    def slowly(*_: Any) -> None:
        steps.append(1)
        time.sleep(0.02)

    hook = room._model.language_model.register_forward_hook(slowly)
    # A stop that never comes: the answer would go on for hundreds of tokens.
    stop, room._model.tokeniser.stop_id = room._model.tokeniser.stop_id, -1
    eos, room._model.tokeniser.tokeniser.eos_token_id = room._model.tokeniser.tokeniser.eos_token_id, None
    body = {"stream": True, "messages": [{"role": "user", "content": [B_CELLS]}]}
    try:
        with over_http(with_chat) as url, httpx.Client(base_url=url, timeout=60) as client:
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()  # the stream ends with its iterator
                next(lines)
                wait_for(lambda: len(steps) > 3)
            wait_for(lambda: room._open == 0)
            n = len(steps)
            time.sleep(0.2)
            assert len(steps) == n < 100
    finally:
        hook.remove()
        room._model.tokeniser.stop_id = stop
        room._model.tokeniser.tokeniser.eos_token_id = eos


class Elsewhere:
    """An OpenAI-compatible server. replies: what it does with each call, the last one with all others."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.asked = list(replies), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                try:
                    outer.reply(self)
                except ConnectionError:
                    return  # who asked has hung up

            def log_message(self, *arguments: object) -> None:
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def reply(self, handler: BaseHTTPRequestHandler) -> None:
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if reply == "no parts" and isinstance(self.asked[-1]["messages"][-1]["content"], str):
            reply = "speak"
        status = {"no parts": 400, "busy": 503, "wrong key": 401}.get(reply, 200)
        handler.send_response(status)
        handler.end_headers()
        if status != 200:
            return
        words = ["They seem ", "to be B cells."] if reply == "speak" else ["and on "] * 200
        for word in words:
            handler.wfile.write(
                f"data: {json.dumps({'choices': [{'delta': {'content': word}}]})}\n\n".encode()
            )
            time.sleep(0.05 if reply == "drip" else 0)
        handler.wfile.write(b"data: [DONE]\n\n")


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., Elsewhere]]:
    started: list[Elsewhere] = []

    def start(*replies: str) -> Elsewhere:
        started.append(Elsewhere(*replies))
        return started[-1]

    yield start
    for each in started:
        each.server.shutdown()
        each.server.server_close()


def answer_of(doors: Doors, **more: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": [B_CELLS, MONOCYTES]}], **more}
    client = TestClient(create_api(doors), raise_server_exceptions=False)
    return client.post("/v1/chat/completions", json=body)


def test_soft_tokens_go_to_a_server_that_takes_them(
    with_chat: Doors, elsewhere: Callable[..., Elsewhere], chat_directory: str
) -> None:
    server = elsewhere("speak")
    settings = with_chat.settings.model_copy(update={"language_model": server.url})
    doors = changed(with_chat, Inside(ChatRoom(settings)), language_model=server.url)
    answer = answer_of(doors).json()["choices"][0]["message"]["content"]
    assert answer.startswith("They seem to be B cells [E2]")
    _, *parts = server.asked[0]["messages"][-1]["content"]
    assert [part["type"] for part in parts] == ["prompt_embeds"] * 2
    sent = [torch.load(io.BytesIO(base64.b64decode(part["data"])), weights_only=True) for part in parts]
    projector = chat.load_projector(chat_directory)
    index = VectorIndex.open(str(with_chat.settings.index))
    assert sent[0].shape == (3, 32)
    assert not torch.equal(sent[0], sent[1])
    assert projector[0].in_features == index.width


def test_a_server_that_takes_none_is_given_words_alone(
    with_chat: Doors, elsewhere: Callable[..., Elsewhere]
) -> None:
    server = elsewhere("no parts")
    settings = with_chat.settings.model_copy(update={"language_model": server.url})
    doors = changed(with_chat, Inside(ChatRoom(settings)), language_model=server.url)
    for _ in range(2):
        answer = answer_of(doors).json()
        assert "[E2]" in answer["choices"][0]["message"]["content"]
    # It was asked with soft tokens once, and never again.
    kinds = [type(body["messages"][-1]["content"]).__name__ for body in server.asked]
    assert kinds == ["list", "str", "str"]
    assert answer["evidence"][0]["summary"] in server.asked[-1]["messages"][0]["content"]


def test_a_busy_server_is_asked_again_and_not_for_ever(
    doors: Doors, elsewhere: Callable[..., Elsewhere]
) -> None:
    passing, busy = elsewhere("busy", "speak"), elsewhere("busy")
    assert answer_of(changed(doors, language_model=passing.url)).status_code == 200
    assert len(passing.asked) == 2
    refused = answer_of(changed(doors, language_model=busy.url))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "language_model_down")
    assert len(busy.asked) == 3
    wrong = elsewhere("wrong key")
    assert answer_of(changed(doors, language_model=wrong.url)).status_code == 502
    assert len(wrong.asked) == 1


def test_a_slow_server_does_not_hold_an_answer_for_ever(
    doors: Doors, elsewhere: Callable[..., Elsewhere]
) -> None:
    server = elsewhere("drip")
    limits = doors.settings.limits.model_copy(update={"answer_seconds": 0.4})
    slow = changed(doors, language_model=server.url, limits=limits)
    assert answer_of(slow).json()["error"]["code"] == "timed_out"
    lines = answer_of(slow, stream=True).text.strip().split("\n\n")
    assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "timed_out"
    assert lines[-1] == "data: [DONE]"


@pytest.mark.slow
def test_on_ray_serve_with_a_replica_of_its_own(
    ray_cluster: None, served: Settings, chat_directory: str
) -> None:
    openai = pytest.importorskip("openai", reason="needs the openai client")
    from ray import serve

    (port,) = front.free_ports(1)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(build(served.model_copy(update={"chat": chat_directory})), name="syncytium")
        assert set(serve.status().applications["syncytium"].deployments) == {"Door", "ChatRoom"}
        api = openai.OpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1", timeout=600)
        messages = [{"role": "user", "content": [B_CELLS, {"type": "text", "text": "What are these cells?"}]}]
        chunks = list(api.chat.completions.create(model="cells", messages=messages, stream=True))
        answer = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert "These seem to be B cell" in answer
        aborted = api.chat.completions.create(model="cells", messages=messages, stream=True)
        next(aborted)
        aborted.close()
        again = api.chat.completions.create(model="cells", messages=messages)
        assert again.choices[0].message.content == answer
    finally:
        serve.shutdown()
