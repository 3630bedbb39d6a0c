"""Nothing that a caller sends breaks the server: every route has its hostile cases."""

import json
import pickle
from typing import Any

import pytest
from fastapi.testclient import TestClient

BODIES = [
    b"",
    b"not json",
    b"null",
    b"[]",
    b"[" * 50_000 + b"]" * 50_000,
    b'{"text": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"text": NaN}',
    b'{"text": "\\ud800"}',
    '{"text": "\u202e\u0000 \U0001f9ec"}'.encode(),
    b"\xff\xfe\x00",
    pickle.dumps({"text": "B cell"}),
    b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    b'{"text": {"$gt": ""}}',
    b'{"like": {"cells": [1e308]}}',
    b'{"like": {"cells": ["0 or 1"]}}',
    b'{"like": {"ranges": [[5, 2]]}}',
    b'{"like": {"where": "row in (1,2) or __import__(\'os\')"}}',
    b'{"text": "B cell", "k": 1e99}',
    b'{"__proto__": {"admin": true}, "constructor": 1}',
    b'{"text": "' + b"A" * 100_000 + b'"}',
]
# Values in the place of a part of a path, or of a query.
NAMES = [
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "%f0%9f%a7%ac",
    "x" * 3_000,
    "-1",
    "99999999999999999999",
    "1e3",
    "%ff",
]
ALL = {"all": True}
SELECTION = {"cellSelection": {"filter": {"obs": {"index": [[0, 5]]}}}}

# Bodies that are read to the end and yet ask for what is not there, or for too much.
SPECIFIC: dict[str, list[Any]] = {
    "POST /v1/search": [
        {"text": "B cell", "where": "tissue = 'x' and (" * 500},
        {"text": "a +b -c *9" * 300},
        {"text": "cell -cell"},
        {"text": "B cell", "template": "{}{}"},
        {"like": ALL, "k": 100, "metric": "dot", "rerank": 1_000_000},
    ],
    "POST /v1/score": [{"text": "B cell", "template": "{0.__class__}"}, {"text": "*1e400 cell"}],
    "POST /v1/phrases": [{"cells": ALL, "where": "library = 'none'"}, {"cells": {"cells": [2**53]}}],
    "POST /v1/embeddings": [
        {"input": []},
        {"input": ["\u0000"]},
        {"input": ["x"] * 257},
        {"input": "x", "dimensions": 65_536},
    ],
    "POST /v1/annotate": [
        {"cells": ALL, "labels": ["a", "b"], "templates": ["{}" * 9]},
        {"cells": ALL, "labels": {"a": [], "b": ["\u0000"]}, "group_by": "n_genes"},
        {"cells": ALL, "labels": ["a", "b"], "min_confidence": "NaN"},
    ],
    "POST /v1/cells/names": [{"ranges": [[0, 2**53]]}, {"selection": "../../x"}],
    "POST /v1/selections": [{"ranges": [[0, 0]]}, {"where": "cell_type = 'unheard of'"}],
    "POST /v1/markers": [{"cells": ALL}, {"cells": ALL, "against": {"cells": [0]}, "most": 201}],
    "POST /v1/features/of-cells": [
        {"cells": {"where": "cell_type = 'unheard of'"}},
        {"cells": ALL, "most": 0},
    ],
    "POST /v1/perturb": [
        {"perturbation": "+", "cells": ALL},
        {"perturbation": "NOGENE", "cells": ALL},
        {"perturbation": "non-targeting", "cells": ALL},
        {"perturbation": "A+" * 200, "cells": ALL, "context": "\u0000"},
    ],
    "POST /v1/perturb/groups": [
        {"perturbation": "+", "column": "cell_type"},
        {"perturbation": "NOGENE", "column": "cell_type"},
        {"perturbation": "non-targeting", "column": "../../etc/passwd"},
        {"perturbation": "A+" * 200, "column": "n_genes", "gene": "\u0000", "context": "\u0000"},
    ],
    "POST /v1/chat/completions": [
        {"messages": []},
        {"messages": [{"role": "user", "content": "x"}] * 65},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "cells", "cells": ALL}] * 9}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}
            ]
        },
        {"messages": [{"role": "user", "content": " "}]},
    ],
    "POST /v1/feedback": [
        {"answer": "../../etc/passwd", "thumb": "up"},
        {"answer": "x", "thumb": "sideways"},
    ],
    "POST /clip/api/text_embedding": [["x"] * 1_025, [""], [1]],
    "POST /clip/api/score_transcriptomes_vs_texts": [["x"]],
    "POST /worker_get_status": [{"x": 1}],
    "POST /worker_generate_stream": [
        {"prompt": "<image>" * 9, "images": []},
        {"prompt": "<image>", "images": [[1e300] * 32]},
        {"prompt": "<image>", "images": [[0.0] * 32]},
        {"prompt": "<image>", "images": [[]]},
        {"prompt": "", "images": []},
    ],
    "POST /api/v0.2/llmembs/text": [{"text": ""}, {"text": " MINUS "}],
    "POST /api/v0.2/llmembs/obs": [{"cellSelection": {"filter": {"obs": {"index": [[9, 2]]}}}}],
    "POST /api/v0.2/llmembs/chat": [
        {**SELECTION, "messages": []},
        {**SELECTION, "messages": [{"from": "x"}]},
    ],
    "POST /api/v0.2/llmembs/feedback": [{**SELECTION, "messages": [], "thumbDirection": "left"}],
    "POST /api/v0.2/llmembs/interpret": [{**SELECTION, "text": '"'}, {"text": "x", "cellSelection": {}}],
    "GET /v1/cells/ids": ["where=%00", "where=" + "(" * 3_000, "where=row%20in%20(1)", "where=1%3D1"],
    "GET /v1/cells/layout": ["name=%00", "name=..%2f..%2fx", "name=" + "x" * 3_000, "name=1&name=2"],
    "GET /v1/genes": ["prefix=%00", "most=0", "most=1e9", "prefix=" + "x" * 65],
    "GET /v1/features": ["sort=__class__", "start=-1", "start=99999999999999999999", "gene=%00", "most=NaN"],
    "GET /v1/selections/{name}/export": ["format=exe", "text=", "text=%22"],
}
# Asked for with hostile queries, which they do not read.
NOT_READ = "/v1/datasets /v1/models /clip/api/logit_scale /healthz /readyz /metrics / /docs"
WITHOUT_INPUT = {f"GET {path}" for path in (*NOT_READ.split(), "/openapi.json")}
IN_PATHS = {
    "GET /v1/cells/columns/{name}",
    "GET /v1/cells/columns/{name}/categories",
    "GET /v1/selections/{name}",
    "GET /v1/selections/{name}/export",
    "GET /v1/genes/{name}/expression",
    "GET /v1/features/{number}",
    "GET /v1/features/{number}/cells",
    "GET /v1/features/{number}/levels",
    "GET /web/{name}",
}


def routes_of(client: TestClient) -> set[str]:
    listed = client.get("/openapi.json").json()["paths"]
    described = {f"{method.upper()} {path}" for path, methods in listed.items() for method in methods}
    return described | {"GET /", "GET /docs", "GET /openapi.json", "GET /web/{name}"}


def test_no_route_is_without_a_hostile_case(everything: TestClient) -> None:
    assert routes_of(everything) <= set(SPECIFIC) | WITHOUT_INPUT | IN_PATHS


@pytest.mark.parametrize("route", sorted(route for route in SPECIFIC if route.startswith("POST")))
def test_hostile_bodies_are_refused(everything: TestClient, route: str) -> None:
    path, headers = route.removeprefix("POST "), {"content-type": "application/json"}
    for body in [*BODIES, *(json.dumps(each).encode() for each in SPECIFIC[route])]:
        response = everything.post(path, content=body, headers=headers)
        assert response.status_code < 500, (body[:80], response.text)
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"
            assert "Traceback" not in response.text
        assert "posix" not in response.text


@pytest.mark.parametrize(
    "route", sorted({*(route for route in SPECIFIC if route.startswith("GET")), *WITHOUT_INPUT})
)
def test_hostile_queries_are_refused(everything: TestClient, route: str) -> None:
    path = route.removeprefix("GET ").replace("{name}", "sel_no")
    for query in SPECIFIC.get(route, ["__proto__=1&x[]=%00"]):
        response = everything.get(f"{path}?{query}")
        assert response.status_code < 500, (query, response.text)


@pytest.mark.parametrize("route", sorted(IN_PATHS))
def test_paths_lead_nowhere_else(everything: TestClient, route: str) -> None:
    for name in [*NAMES, "../settings.py", "%2e%2e/settings.py"]:
        path = route.removeprefix("GET ").replace("{name}", name).replace("{number}", name)
        response = everything.get(path)
        assert response.status_code in (400, 404, 422), (path[:80], response.text[:200])
        assert "class Settings" not in response.text
        assert "root:" not in response.text


def test_numbers_of_a_body_may_be_anything(everything: TestClient) -> None:
    """JSON has numbers that floats do not."""
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "-0.0", str(10**400)):
        body = f'{{"prompt": "<image>", "images": [[{", ".join([number] * 32)}]]}}'
        response = everything.post("/worker_generate_stream", content=body)
        assert response.status_code < 500, number
        for frame in response.content.rstrip(b"\0").split(b"\0") if response.status_code == 200 else ():
            assert json.loads(frame)["error_code"] in (0, 1)


def test_methods_and_types_that_no_route_takes(everything: TestClient) -> None:
    assert everything.delete("/v1/search").status_code == 405
    assert (
        everything.post("/v1/search", content=b"text=x", headers={"content-type": "text/plain"}).status_code
        == 422
    )
    form = {"content-type": "multipart/form-data; boundary=x"}
    assert everything.post("/v1/search", content=b"--x", headers=form).status_code == 422
    assert everything.get("/v1/search", headers={"accept": "\x00"}).status_code == 405
    long = {"authorization": "Bearer " + "x" * 50_000}
    assert everything.get("/v1/models", headers=long).status_code < 500
    assert "syncytium_requests" in everything.get("/metrics").text
