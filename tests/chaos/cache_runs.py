"""Runs of `cache` as processes of their own, to be killed, starved and watched."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from engine.streaming.inputs import Inputs
from engine.streaming.products.activations import ActivationProduct
from engine.streaming.recipe import Recipe
from storage.locations import Location
from storage.protocol import leases
from tests.conftest import REPOSITORY
from tests.streaming.in_process import encode_here, hashes

SECONDS_TO_WAIT = 900
# A run over the small store has 19 members or more.
HOOKS, SHARD_TOKENS, TOKENS_PER_CELL = ("resid_post_0", "final"), 512, 32


def cache_command(
    store: Path | str,
    model: Path,
    output: Path | str,
    *,
    address: str = "local",
    actors: int = 2,
    wait: float = 0.4,
    poison: int = -1,
) -> list[str]:
    """Its encoders wait before every member, so that a run lasts until something happens to it."""
    flags = ["--cells", store, "--model", model, "--hooks", ",".join(HOOKS), "--output", output]
    sizing = ["--shard-tokens", SHARD_TOKENS, "--tokens-per-cell", TOKENS_PER_CELL, "--actors", actors]
    started = [sys.executable, "-m", "tests.chaos.odd_cache", str(wait), str(poison)]
    return [*started, *map(str, [*flags, *sizing]), "--address", address]


def quiet_hashes(store: Path, model: Path, output: Path) -> dict[str, str]:
    """What these runs make when nothing happens, made in this process and without Ray: object -> hash."""
    inputs = Inputs.open(str(store), str(model))
    product = ActivationProduct(
        hooks=HOOKS,
        precision="bf16",
        tokens_per_cell=TOKENS_PER_CELL,
        special_tokens=False,
        seed=0,
        identity={"model": inputs.model.fingerprint, "store": inputs.store.dataset_id},
        shard_tokens=SHARD_TOKENS,
    )
    encode_here(inputs, product, output, Recipe(inputs.model.token_limit(None)))
    return hashes(output)


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


def most_begun(output: Path, process: subprocess.Popen[str], members: int) -> int:
    """Follow a run until it has so many members; how often the member that was begun most often was begun."""
    most, deadline = 0, time.monotonic() + SECONDS_TO_WAIT
    while committed(output) < members:
        assert process.poll() is None, f"ended before it had {members} members: {process.communicate()[1]}"
        assert time.monotonic() < deadline, f"only {committed(output)} members"
        most = max([most, *leases.begun(Location.of(output)).values()])
        time.sleep(0.1)
    return most
