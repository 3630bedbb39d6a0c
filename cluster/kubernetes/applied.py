"""Applying documents with kubectl, and following a RayJob to its end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from cluster.programs import ask

_POLL_SECONDS = 5.0
_DEPLOYMENT_ENDS = {"Complete", "Failed", "ValidationFailed"}


def apply(manifest: str) -> None:
    """Prints what became of each document."""
    print(ask("kubectl", "apply", "-f", "-", stdin=manifest), end="")


def status(name: str, namespace: str) -> dict[str, Any]:
    """Of one RayJob, as the operator writes it."""
    found = json.loads(ask("kubectl", "get", "rayjob", name, "--namespace", namespace, "--output", "json"))
    filled: dict[str, Any] = found.get("status", {})
    return filled


def follow(name: str, namespace: str, poll_seconds: float = _POLL_SECONDS) -> int:
    """Shows the log of each try as it runs; 0 when one succeeded, 1 when the last failed."""
    said, logs = "", None
    try:
        while True:
            now = status(name, namespace)
            deployment, job = now.get("jobDeploymentStatus", "New"), now.get("jobStatus", "")
            if (state := f"{deployment} {job}".strip()) != said:
                said = state
                print(f"submit: {name} is {state}", file=sys.stderr, flush=True)
            if deployment in _DEPLOYMENT_ENDS:
                return _ended(name, now)
            if job == "RUNNING" and (logs is None or logs.poll() is not None):
                # The submitter's pod repeats the driver's log; each try has its own.
                logs = subprocess.Popen(
                    ["kubectl", "logs", "--follow", f"job/{name}", "--namespace", namespace]
                )
            time.sleep(poll_seconds)
    finally:
        if logs is not None:
            logs.terminate()
            logs.wait()


def _ended(name: str, now: dict[str, Any]) -> int:
    if now.get("jobStatus") == "SUCCEEDED":
        return 0
    why = now.get("message") or now.get("reason") or "no reason given"
    print(f"submit: {name} failed: {why}", file=sys.stderr)
    return 1
