"""A stand-in for Kubernetes' API server that knows four kinds: enough for kubectl to apply what we render.

Like the real one it refuses fields that the definitions do not name, where it is asked to (kubectl asks).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.cluster.crds import problems

GROUPS = {
    "ray.io/v1": {"RayJob": "rayjobs", "RayCluster": "rayclusters", "RayService": "rayservices"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
}
VERBS = ["create", "delete", "get", "list", "patch", "update"]


@contextmanager
def api_server(
    kubeconfig: Path, schemas: dict[tuple[str, str], dict[str, Any]]
) -> Iterator[dict[str, dict[str, Any]]]:
    """Serves while the body runs; yields what was created, by path. Writes the file that KUBECONFIG names."""
    created: dict[str, dict[str, Any]] = {}

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found = _discovery(path) or created.get(path)
            self._say(200, found) if found else self._say(404, _refused("NotFound", 404, path))

        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            wrong = problems(sent, schemas) if "fieldValidation=Strict" in self.path else []
            if wrong:
                self._say(400, _refused("BadRequest", 400, "; ".join(wrong)))
                return
            created[f"{self.path.partition('?')[0]}/{sent['metadata']['name']}"] = sent
            self._say(201, sent)

        def _say(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    cluster = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
    context = {"name": "here", "context": {"cluster": "here", "user": ""}}
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [cluster],
                "contexts": [context],
                "current-context": "here",
            }
        )
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield created
    finally:
        server.shutdown()
        server.server_close()


def _discovery(path: str) -> dict[str, Any] | None:
    """What the server can do, as kubectl asks for it."""
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/api/v1":
        return _resources("v1", {})
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in GROUPS]}
    if path == "/openapi/v3":
        return {
            "paths": {f"apis/{name}": {"serverRelativeURL": f"/openapi/v3/apis/{name}"} for name in GROUPS}
        }
    version = path.removeprefix("/openapi/v3").removeprefix("/apis/")
    if version not in GROUPS:
        return None
    described = path.startswith("/openapi/")
    return _operations(version) if described else _resources(version, GROUPS[version])


def _operations(version: str) -> dict[str, Any]:
    """That the server checks fields itself, where it is asked to: then kubectl does not do it."""
    group, _, short = version.partition("/")
    paths = {
        f"/apis/{version}/namespaces/{{namespace}}/{plural}/{{name}}": {
            "patch": {
                "parameters": [{"name": "fieldValidation", "in": "query"}],
                "x-kubernetes-group-version-kind": {"group": group, "version": short, "kind": kind},
            }
        }
        for kind, plural in GROUPS[version].items()
    }
    return {"openapi": "3.0.0", "info": {"title": version, "version": "1"}, "paths": paths}


def _group(version: str) -> dict[str, Any]:
    name, _, short = version.partition("/")
    preferred = {"groupVersion": version, "version": short}
    return {"name": name, "versions": [preferred], "preferredVersion": preferred}


def _resources(version: str, kinds: dict[str, str]) -> dict[str, Any]:
    resources = [
        {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": VERBS}
        for kind, plural in kinds.items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _refused(reason: str, code: int, message: str) -> dict[str, Any]:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
    return {**status, "message": message}
