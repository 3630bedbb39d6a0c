"""The tools of the Model Context Protocol answer what the routes answer, and ask for the same keys."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from engine.serving.access import new_key
from engine.serving.api import create_api
from engine.serving.doors import Doors

HEADERS = {"accept": "application/json, text/event-stream"}


def client_of(doors: Doors, **changes: Any) -> TestClient:
    settings = doors.settings.model_copy(update={"mcp": True, **changes})
    return TestClient(create_api(replace(doors, settings=settings)), base_url="http://127.0.0.1:8000")


@pytest.fixture
def tools(doors: Doors) -> Iterator[TestClient]:
    pytest.importorskip("mcp", reason="needs the mcp package")
    with client_of(doors) as client:
        yield client


def called(client: TestClient, method: str, headers: dict[str, str] = HEADERS, **parameters: Any) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    return client.post("/mcp/", json=body, headers=headers)


def result(client: TestClient, tool: str, **arguments: Any) -> Any:
    answer = called(client, "tools/call", name=tool, arguments=arguments).json()["result"]
    assert not answer.get("isError"), answer
    return answer["structuredContent"]


def test_tools_answer_as_the_routes_do(tools: TestClient) -> None:
    listed = called(tools, "tools/list").json()["result"]["tools"]
    names = {
        "search_cells",
        "score_text",
        "describe_selection",
        "top_genes",
        "feature",
        "predict_perturbation",
    }
    assert {tool["name"] for tool in listed} == names
    by_route = tools.post("/v1/search", json={"text": "B cell", "k": 3}).json()["hits"]
    assert [hit["cell"] for hit in result(tools, "search_cells", text="B cell", k=3)["hits"]] == [
        hit["cell"] for hit in by_route
    ]
    where = "cell_type = 'B cell'"
    assert "B cell" in str(result(tools, "describe_selection", where=where)["evidence"])
    assert "CD79A" in {gene["gene"] for gene in result(tools, "top_genes", where=where)["genes"]}
    ours, all_cells = (result(tools, "score_text", text="B cell", where=w)["q0.5"] for w in (where, None))
    assert ours > all_cells
    refused = called(tools, "tools/call", name="feature", arguments={"number": 1}).json()["result"]
    assert refused["isError"]
    assert "--features" in str(refused["content"])


def test_tools_want_keys(doors: Doors, tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="needs the mcp package")
    text, key = new_key("reader", ["read"])
    (tmp_path / "keys").write_text(key.line)
    with client_of(doors, api_keys=str(tmp_path / "keys")) as client:
        assert called(client, "tools/list").status_code == 401
        headers = {**HEADERS, "authorization": f"Bearer {text}"}
        assert called(client, "tools/list", headers).status_code == 200
