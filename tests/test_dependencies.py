"""What is installed is what was tested: every dependency is pinned, and audited where that can be asked."""

import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

AUDIT = REPOSITORY / ".ci" / "audit"
# Extras of machines that CI is not: their packages choose their builds by the machine.
NOT_PINNED = {"gpu", "serve-llm", "gcs", "docs"}
# A fresh environment has them before anything is installed, and `pip freeze` leaves them out.
BROUGHT_BY_PYTHON = {"pip", "setuptools", "wheel"}


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==([^;\s]+)", line) for line in lines if line and line[0] != "#"]
    assert all(found), "constraints.txt holds lines that pin nothing"
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = {
        name: lines for name, lines in project["optional-dependencies"].items() if name not in NOT_PINNED
    }
    waiting = [Requirement(line) for lines in (project["dependencies"], *extras.values()) for line in lines]
    pinned, seen = pins(), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in {"syncytium", *BROUGHT_BY_PYTHON} or (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        assert name in pinned, f"{name} is not in constraints.txt"
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            # Pinned for a machine that has it; this one was installed without.
            continue
        for line in needed:
            inner = Requirement(line)
            asked = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
            if inner.marker is None or any(inner.marker.evaluate(each) for each in asked):
                waiting.append(inner)


class Advisories(BaseHTTPRequestHandler):
    """Answers as OSV does: a list of what is known of each package asked for."""

    known: ClassVar[dict[str, str]] = {}

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
        results = [
            {"vulns": [{"id": self.known[query["package"]["name"]]}]}
            if query["package"]["name"] in self.known
            else {}
            for query in asked
        ]
        content = json.dumps({"results": results}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Silent."""


@pytest.fixture
def advisories() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Advisories)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def audit(service: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(AUDIT), "--service", service, *more], capture_output=True, text=True, timeout=120
    )


def test_an_advisory_fails_the_audit_by_name(advisories: str, tmp_path: Path) -> None:
    Advisories.known = {}
    assert audit(advisories).returncode == 0
    Advisories.known = {"starlette": "GHSA-test-1", "pip": "GHSA-not-ours"}
    found = audit(advisories)
    assert found.returncode == 1
    assert f"starlette {pins()['starlette']}: GHSA-test-1" in found.stdout
    assert "GHSA-not-ours" not in found.stdout
    (tmp_path / "accepted").write_text("# read, and of no matter here: ...\nGHSA-test-1\n")
    assert audit(advisories, "--accepted", str(tmp_path / "accepted")).returncode == 0


def test_where_nobody_answers_it_says_so() -> None:
    unreachable = "http://127.0.0.1:9"
    found = audit(unreachable)
    assert (found.returncode, "NOT AUDITED" in found.stdout) == (0, True)
    assert audit(unreachable, "--require").returncode == 1


def test_ci_audits() -> None:
    assert ".ci/audit" in (REPOSITORY / ".ci" / "run").read_text()
