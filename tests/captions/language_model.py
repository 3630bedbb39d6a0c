"""A small language-model server on loopback: speaks as OpenAI-compatible ones do, misbehaves when told to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-very-secret-0123456789"
Reply = tuple[int, dict[str, str], str]


def caption_of(record: dict[str, Any]) -> str:
    """What the model says of a record: its values, so that a test can tell them."""
    return "These are cells: " + ", ".join(
        str(value) for name, value in sorted(record.items()) if name != "id"
    )


def completion(answer: Any) -> str:
    """The body of a chat completion whose message is this JSON, or this text."""
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def good(records: list[dict[str, Any]]) -> Reply:
    captions = [{"id": record["id"], "caption": caption_of(record)} for record in records]
    return 200, {}, completion({"captions": captions})


@dataclass
class LanguageModel:
    """url: its address. asked: bodies of all calls. answer: what it says to the records of call number n."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    answer: Callable[[int, list[dict[str, Any]]], Reply] = lambda number, records: good(records)


@contextmanager
def language_model(
    answer: Callable[[int, list[dict[str, Any]]], Reply] | None = None,
) -> Iterator[LanguageModel]:
    model = LanguageModel()
    if answer is not None:
        model.answer = answer
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(model.asked)
                model.asked.append(body)
                model.keys.append(self.headers.get("Authorization"))
            records = json.loads(body["messages"][-1]["content"])["records"]
            status, headers, content = model.answer(number, records)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content.encode())))
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    model.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
