"""Following a RayJob, over a stand-in for kubectl."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.kubernetes import applied

KUBECTL = """#!/bin/bash
if [ "$1" = logs ]; then echo "log of $3"; exit; fi
[ "$1 $2 $3" = "get rayjob cache" ] || exit 1
head -n 1 "$STATES"
sed -i 1d "$STATES"
"""


@pytest.mark.parametrize(("last", "code"), [("SUCCEEDED", 0), ("FAILED", 1)])
def test_follows_to_the_end(
    last: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    running = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    ended = {"jobDeploymentStatus": "Complete", "jobStatus": last, "message": "out of memory"}
    states = [{}, {"status": {"jobDeploymentStatus": "Initializing"}}, {"status": running}, {"status": ended}]
    (tmp_path / "states").write_text("".join(json.dumps(state) + "\n" for state in states))
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL)
    program.chmod(0o755)
    monkeypatch.setenv("STATES", str(tmp_path / "states"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    assert applied.follow("cache", "cells", poll_seconds=0.3) == code
    out, err = capfd.readouterr()
    assert out == "log of job/cache\n"
    assert "is New\n" in err
    assert "is Initializing\n" in err
    assert ("out of memory" in err) == bool(code)


def test_kubectl_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "kubectl"
    program.write_text("#!/bin/bash\necho 'unknown field' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(RuntimeError, match="kubectl apply -f -: unknown field"):
        applied.apply("kind: RayJob")
