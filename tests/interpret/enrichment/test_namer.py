"""Names by a model: what it is sent, what is kept of its answer, what happens when it is not there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

from engine.interpret.enrichment import namer as module
from engine.interpret.enrichment.labels import Evidence, Label
from engine.interpret.enrichment.namer import Namer, NamerUnavailable
from storage.errors import InputError

EVIDENCE = Evidence(("CD3D", "CD3E"), term="T_CELL_ACTIVATION", q=1e-6, terms=("T_CELL_ACTIVATION",))
TEMPLATE = Label("T cell activation", 0.6, "term")


class Endpoint(BaseHTTPRequestHandler):
    answers: ClassVar[list[tuple[int, Any]]] = []
    asked: ClassVar[list[tuple[dict[str, Any], str | None]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((body, self.headers["Authorization"]))
        status, answer = self.answers.pop(0)
        content = json.dumps({"choices": [{"message": {"content": answer}}]}).encode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("SYNCYTIUM_LABEL_KEY", "secret")
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    Endpoint.asked.clear()
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_name_is_kept_short_with_its_maker(endpoint: str) -> None:
    Endpoint.answers[:] = [
        (500, ""),
        (200, json.dumps({"name": "T cell\nreceptor " * 20, "confidence": 0.99})),
    ]
    label = Namer.of(endpoint, "some-model").name(EVIDENCE, TEMPLATE)
    assert label.name.startswith("T cell receptor T cell")
    assert len(label.name) == 80
    assert label.made_by == "some-model"
    # No surer than the evidence.
    assert label.confidence == TEMPLATE.confidence
    body, key = Endpoint.asked[-1]
    assert key == "Bearer secret"
    sent = json.loads(body["messages"][1]["content"])
    assert sent["strongest_genes"] == ["CD3D", "CD3E"]
    assert sent["significant_terms"] == ["T cell activation"]


def test_answers_that_are_none_are_asked_again_then_given_up(endpoint: str) -> None:
    Endpoint.answers[:] = [(200, "not json"), (200, "[1]"), (503, "")]
    with pytest.raises(NamerUnavailable, match="3 tries"):
        Namer.of(endpoint, "m").name(EVIDENCE, TEMPLATE)
    assert len(Endpoint.asked) == 3


def test_a_refused_key_is_said_and_not_shown(endpoint: str) -> None:
    Endpoint.answers[:] = [(401, "")]
    with pytest.raises(InputError, match="OPENAI_API_KEY") as refusal:
        Namer.of(endpoint, "m").name(EVIDENCE, TEMPLATE)
    assert "secret" not in str(refusal.value)
    with pytest.raises(InputError, match="http"):
        Namer.of("file:///etc", "m")
