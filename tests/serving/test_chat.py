"""Conversations rest on evidence, with or without a language model."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from fastapi.testclient import TestClient

from engine.serving.api import create_api
from engine.serving.chat.answers import cited, marked
from engine.serving.chat.evidence import Evidence
from engine.serving.doors import Doors

B_CELLS = {"type": "cells", "cells": {"where": "cell_type = 'B cell'"}}
MONOCYTES = {"type": "cells", "cells": {"where": "cell_type = 'CD14+ monocyte'"}}


def ask(client: TestClient, *parts: dict, text: str = "What are these?", **more: object) -> dict:
    content = [*parts, {"type": "text", "text": text}]
    body = {"messages": [{"role": "user", "content": content}], **more}
    return client.post("/v1/chat/completions", json=body).json()


def test_an_answer_cites_its_evidence(client: TestClient) -> None:
    found = ask(client, B_CELLS)
    answer = found["choices"][0]["message"]["content"]
    kinds = {piece["kind"]: piece for piece in found["evidence"]}
    assert "B cell" in kinds["annotations"]["summary"]
    assert {"CD79A", "CD74", "MS4A1", "CD79B"} & {gene["gene"] for gene in kinds["genes"]["facts"]["genes"]}
    for piece in found["evidence"]:
        assert f"[{piece['id']}]" in answer
        assert piece["summary"][1:] in answer


def test_two_selections_are_set_against_each_other(client: TestClient) -> None:
    found = ask(client, B_CELLS, MONOCYTES, text="Which genes differ?")
    genes = [piece for piece in found["evidence"] if piece["kind"] == "genes"]
    assert [piece["selection"] for piece in genes] == ["the cells of A", "the cells of B"]
    ours, theirs = ({gene["gene"] for gene in piece["facts"]["genes"]} for piece in genes)
    assert ours
    assert theirs
    assert not ours & theirs
    assert "than the other selection" in found["choices"][0]["message"]["content"]


def test_a_mixture_is_said_to_be_one(client: TestClient) -> None:
    mixed = {"type": "cells", "cells": {"where": "cell_type in ('B cell', 'CD14+ monocyte')"}}
    assert "mixture" in {piece["kind"] for piece in ask(client, mixed)["evidence"]}
    assert "mixture" not in {piece["kind"] for piece in ask(client, B_CELLS)["evidence"]}


def test_a_question_without_cells_finds_some(client: TestClient) -> None:
    found = ask(client, text="B cell")
    hits = found["evidence"][0]
    assert hits["kind"] == "hits"
    assert len(hits["cells"]) == 50
    assert "[E1]" in found["choices"][0]["message"]["content"]


@pytest.mark.parametrize("field", ["cells", "where", "selection", "selections"])
def test_cells_in_another_place_are_refused_not_overheard(client: TestClient, field: str) -> None:
    given = "cell_type = 'B cell'" if field == "where" else {"where": "cell_type = 'B cell'"}
    message = {"role": "user", "content": "What are these?"}
    for body in ({"messages": [message], field: given}, {"messages": [{**message, field: given}]}):
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 422
        assert field in answer.json()["detail"]
        assert "go into a message's content" in answer.json()["detail"]


def test_openai_streams_it(client: TestClient) -> None:
    openai = pytest.importorskip("openai", reason="needs the openai client")
    api = openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=client)
    messages = [{"role": "user", "content": [B_CELLS, {"type": "text", "text": "What are these?"}]}]
    whole = api.chat.completions.create(model="cells", messages=messages)
    chunks = list(api.chat.completions.create(model="cells", messages=messages, stream=True))
    assert len(chunks) > 5
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    assert chunks[0].evidence == whole.evidence
    assert chunks[-1].choices[0].finish_reason == "stop"
    empty = {"type": "cells", "cells": {"where": "cell_type = 'unheard of'"}}
    with pytest.raises(openai.BadRequestError) as refused:
        api.chat.completions.create(model="cells", messages=[{"role": "user", "content": [empty]}])
    assert refused.value.code == "no_evidence"


class LanguageModel(BaseHTTPRequestHandler):
    """Streams an answer that names a gene from nowhere and cites what is not there."""

    asked: ClassVar[dict] = {}

    def do_POST(self) -> None:
        type(self).asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for word in ("They are ", "B cells [E1]. ", "They express ", "CD79A and CD3D ", "[E99]."):
            chunk = {"choices": [{"delta": {"content": word}}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *arguments: object) -> None:
        """Silent."""


@pytest.fixture
def language_model() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), LanguageModel)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def with_language_model(doors: Doors, url: str) -> TestClient:
    settings = doors.settings.model_copy(update={"language_model": url})
    return TestClient(create_api(replace(doors, settings=settings)), raise_server_exceptions=False)


def test_a_language_model_is_given_the_evidence_and_checked(doors: Doors, language_model: str) -> None:
    found = ask(with_language_model(doors, language_model), B_CELLS)
    answer = found["choices"][0]["message"]["content"]
    assert answer == "They are B cells [E1]. They express CD79A and CD3D (not in the evidence) [E1]."
    system = LanguageModel.asked["messages"][0]["content"]
    assert found["evidence"][0]["summary"] in system
    assert LanguageModel.asked["messages"][-1] == {"role": "user", "content": "What are these?"}


def test_a_language_model_that_is_down_is_a_503(doors: Doors) -> None:
    client = with_language_model(doors, "http://127.0.0.1:9/v1")
    body = {"messages": [{"role": "user", "content": [B_CELLS]}]}
    answer = client.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["code"] == "language_model_down"
    lines = client.post("/v1/chat/completions", json={**body, "stream": True}).text.split("\n\n")
    assert json.loads(lines[1].removeprefix("data: "))["error"]["code"] == "language_model_down"
    assert lines[2] == "data: [DONE]"


def test_marks_whole_names_only() -> None:
    assert marked("CD3 and CD3D", ["CD3D"]) == "CD3 and CD3D (not in the evidence)"
    assert marked("HLA-DRA, HLA", ["HLA"]) == "HLA-DRA, HLA (not in the evidence)"
    assert marked("CD4+ cells", ["CD4"]) == "CD4+ (not in the evidence) cells"


def test_a_claim_cites_what_names_the_same() -> None:
    facts = {"cell_type": [{"value": "B cell", "share": 0.9}, {"value": "T cell", "share": 0.1}]}
    genes = {"genes": [{"gene": "CD79A"}]}
    pieces = [
        Evidence(id="E1", kind="genes", selection="these cells", summary="", facts=genes),
        Evidence(id="E2", kind="annotations", selection="these cells", summary="", facts=facts),
    ]
    assert cited("They seem to be B cells.", pieces) == "They seem to be B cells [E2]."
    assert cited("B cells that express CD79A. ", pieces) == "B cells that express CD79A [E1][E2]. "
    assert cited("They seem to be T cells!", pieces) == "They seem to be T cells (no evidence for this)!"
    assert cited("They are B cells [E1].", pieces) == "They are B cells [E1]."
    assert cited("Of course.", pieces) == "Of course."
