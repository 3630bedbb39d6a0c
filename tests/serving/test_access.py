"""Who may ask, how often and how much; nothing a caller sends breaks the server or leaves it unguarded."""

from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from engine.serving.access import new_key, read_keys
from engine.serving.api import create_api
from engine.serving.doors import Doors
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


HOSTILE = [
    b"",
    b"not json",
    b'{"text": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"text": NaN}',
    b'{"text": "\\ud800"}',
    '{"text": "\u202e\u0000 \U0001f9ec"}'.encode(),
    b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    b'{"text": {"$gt": ""}}',
    b'{"like": {"cells": [1e308]}}',
    b'{"like": {"cells": ["0 or 1"]}}',
    b'{"like": {"ranges": [[5, 2]]}}',
    b'{"like": {"where": "row in (1,2) or __import__(\'os\')"}}',
    b'{"text": "B cell", "k": 1e99}',
]


@pytest.mark.parametrize("body", HOSTILE)
@pytest.mark.parametrize(
    "path", ["/v1/search", "/v1/score", "/v1/embeddings", "/v1/chat/completions", "/v1/markers"]
)
def test_hostile_bodies_are_refused(client: TestClient, path: str, body: bytes) -> None:
    response = client.post(path, content=body, headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500 or (
        response.status_code == 200 and "text" in body.decode("utf-8", "ignore")
    )


@pytest.mark.parametrize(
    "path",
    [
        "/web/../settings.py",
        "/web/%2e%2e/settings.py",
        "/web/..%2f..%2fsettings.py",
        "/v1/genes/..%2f..%2fetc%2fpasswd/expression",
        "/v1/selections/..%2f..",
        "/v1/cells/columns/%00",
        "/v1/features/99999999999999999999",
    ],
)
def test_paths_lead_nowhere_else(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code in (400, 404, 422, 501)
    assert "Settings" not in response.text
