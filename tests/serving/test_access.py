"""Who may ask, how often and how much; nothing a caller sends breaks the server or leaves it unguarded."""

import hmac
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request

from engine.serving.access import Access, new_key, read_keys
from engine.serving.api import create_api
from engine.serving.doors import Doors
from engine.serving.problems import Problem
from engine.serving.settings import Limits
from storage.errors import InputError

ASK = {"text": "B cell"}


def with_settings(doors: Doors, **changes: object) -> TestClient:
    return TestClient(
        create_api(replace(doors, settings=doors.settings.model_copy(update=changes))),
        raise_server_exceptions=False,
    )


@pytest.fixture
def guarded(doors: Doors, tmp_path: Path) -> tuple[TestClient, dict[str, str]]:
    made = {name: new_key(name, permissions.split(",")) for name, permissions in PERMISSIONS.items()}
    (tmp_path / "keys").write_text("\n".join(key.line for _, key in made.values()))
    return with_settings(doors, api_keys=str(tmp_path / "keys")), {
        name: text for name, (text, _) in made.items()
    }


PERMISSIONS = {"reader": "read", "talker": "read,chat", "admin": "admin"}


def test_keys_open_what_they_are_for(guarded: tuple[TestClient, dict[str, str]]) -> None:
    client, keys = guarded
    talk = {"messages": [{"role": "user", "content": "B cell"}]}

    def status(path: str, body: dict, key: str | None) -> int:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return client.post(path, json=body, headers=headers).status_code

    assert status("/v1/search", ASK, None) == 401
    assert status("/v1/search", ASK, "syn_guess") == 401
    assert status("/v1/search", ASK, keys["reader"]) == 200
    assert status("/v1/chat/completions", talk, keys["reader"]) == 403
    assert status("/v1/chat/completions", talk, keys["talker"]) == 200
    assert status("/v1/chat/completions", talk, keys["admin"]) == 200
    # A probe has no key.
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200


def test_every_route_with_numbers_wants_a_key(guarded: tuple[TestClient, dict[str, str]]) -> None:
    client, _ = guarded
    open_to_all = {"/healthz", "/readyz", "/metrics"}
    paths = client.get("/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method in methods:
            response = client.request(method, path.replace("{number}", "1").replace("{name}", "x"), json={})
            # A body that cannot be read is refused before it is asked who sent it.
            assert response.status_code in ({200} if path in open_to_all else {401, 422}), (method, path)


def test_files_hold_no_key_text(tmp_path: Path) -> None:
    text, key = new_key("me", ["read"])
    (tmp_path / "keys").write_text(f"# people\n\n{key.line}\n")
    assert read_keys(tmp_path / "keys") == [key]
    assert text not in key.line
    (tmp_path / "keys").write_text("me everything abc\n")
    with pytest.raises(InputError, match="line 1: expected a name, permissions"):
        read_keys(tmp_path / "keys")
    (tmp_path / "keys").write_text("# nobody\n")
    with pytest.raises(InputError, match="holds no key"):
        read_keys(tmp_path / "keys")


def test_too_many_requests(doors: Doors) -> None:
    client = with_settings(doors, limits=Limits(requests_per_minute=1))
    codes = [client.post("/v1/search", json=ASK).status_code for _ in range(12)]
    assert codes == [200] * 10 + [429] * 2
    refused = client.post("/v1/search", json=ASK)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"


def test_bodies_are_bounded_with_and_without_a_length(doors: Doors) -> None:
    client = with_settings(doors, limits=Limits(body_bytes=2_000))
    assert client.post("/v1/search", json={"text": "x" * 3_000}).status_code == 413
    chunks = (b'{"text": "' + b"x" * 1_500 for _ in range(3))
    refused = client.post("/v1/search", content=chunks, headers={"content-type": "application/json"})
    assert refused.status_code == 413
    assert refused.json()["error"]["code"] == "body_too_large"


def test_headers_keep_pages_in(client: TestClient) -> None:
    for path in ("/", "/docs", "/healthz", "/v1/nowhere"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def with_key(text: str) -> Request:
    headers = [(b"authorization", f"Bearer {text}".encode())]
    return Request({"type": "http", "headers": headers, "client": ("127.0.0.1", 1)})


def test_every_key_is_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever key is right, and whether one is, as many comparisons are made."""
    made = [new_key(f"key{number}", ["read"]) for number in range(5)]
    access = Access([key for _, key in made], 1_000_000)
    compared: list[str] = []
    compare = hmac.compare_digest

    def counted(a: str, b: str) -> bool:
        compared.append(a)
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    for text in (made[0][0], made[-1][0]):
        compared.clear()
        access.admit(with_key(text), "read")
        assert compared == [key.sha256 for _, key in made]
    compared.clear()
    with pytest.raises(Problem, match="not known"):
        access.admit(with_key("syn_guess"), "read")
    assert compared == [key.sha256 for _, key in made]


def test_only_listed_origins_may_ask(doors: Doors) -> None:
    client = with_settings(doors, allow_origins=("https://lab.example",))

    def allowed(origin: str) -> str | None:
        asked = {"origin": origin, "access-control-request-method": "POST"}
        preflight = client.options("/v1/search", headers=asked).headers.get("access-control-allow-origin")
        answered = client.get("/healthz", headers={"origin": origin}).headers.get(
            "access-control-allow-origin"
        )
        assert preflight == answered
        return answered

    assert allowed("https://lab.example") == "https://lab.example"
    for other in ("https://lab.example.evil", "http://lab.example", "null", "https://evil"):
        assert allowed(other) is None
    assert "access-control-allow-credentials" not in client.get("/healthz").headers


def test_the_policy_of_the_page_allows_nothing_from_elsewhere(client: TestClient) -> None:
    parts = client.get("/").headers["content-security-policy"].split("; ")
    policy = dict(part.split(" ", 1) for part in parts)
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    allowed = {source for sources in policy.values() for source in sources.split()}
    assert allowed == {"'self'", "'none'", "data:"}
    assert "script-src" not in policy


CANARY = "Zanzibar cells of a secret patient"


def test_what_is_asked_is_not_logged(
    doors: Doors, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not by us, whether a request succeeds, is refused, or meets an error whose message holds it."""

    class Broken:
        class Ids:
            @staticmethod
            async def remote(*given: object) -> None:
                raise RuntimeError(f"cannot do {CANARY}")

        ids = Ids

    cells = {"type": "cells", "cells": {"where": f"tissue = '{CANARY}'"}}
    caplog.set_level(logging.DEBUG)
    for use in (doors, replace(doors, cells=Broken())):
        client = TestClient(create_api(use), raise_server_exceptions=False)
        answers = [
            client.post("/v1/search", json={"text": CANARY, "k": 1}),
            client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": CANARY}]}),
            client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": [cells]}]}),
            client.post("/v1/selections", json={"where": f"no_column = '{CANARY}'"}),
            client.post("/v1/search", json={"text": 7, "x": CANARY}),
        ]
        assert use is doors or 500 in {each.status_code for each in answers}
    ours = [record for record in caplog.records if record.name.startswith(("syncytium", "engine", "uvicorn"))]
    assert any("RuntimeError" in record.getMessage() for record in ours)
    said = caplog.text + "".join(capfd.readouterr())
    assert "Zanzibar" not in said
