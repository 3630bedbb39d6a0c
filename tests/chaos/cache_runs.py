"""Runs of `cache` as processes of their own, to be killed, starved and watched."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from storage.locations import Location
from storage.protocol import leases
from tests.conftest import REPOSITORY

SECONDS_TO_WAIT = 400


def cache_command(
    store: Path, model: Path, output: Path | str, *extra: str, address: str = "local", actors: int = 2
) -> list[str]:
    flags = ["--cells", store, "--model", model, "--hooks", "resid_post_0,final", "--output", output]
    sizing = ["--shard-tokens", "512", "--tokens-per-cell", "32", "--actors", str(actors)]
    return [sys.executable, "-m", "jobs.cache", *map(str, flags), *sizing, "--address", address, *extra]


# Those of a test that failed would go on; the fixture `nothing_left_running` ends them.
STARTED: list[subprocess.Popen[str]] = []


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=inherited | environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, stderr)."""
    _, messages = process.communicate(timeout=SECONDS_TO_WAIT)
    return process.returncode, messages


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    finish(process)


def committed(output: Path) -> int:
    return len(list((output / "_log").glob("member-*.json")))


def wait_for_members(output: Path, process: subprocess.Popen[str], n: int) -> None:
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while committed(output) < n:
        assert process.poll() is None, f"ended before it had {n} members: {process.communicate()[1]}"
        assert time.monotonic() < deadline, f"only {committed(output)} members"
        time.sleep(0.02)


def most_begun(output: Path, process: subprocess.Popen[str]) -> int:
    """Follow a run to its end; how often the member that was begun most often was begun."""
    most = 0
    while process.poll() is None:
        most = max([most, *leases.begun(Location.of(output)).values()])
        time.sleep(0.1)
    return most
