"""Half an hour of jobs on machines that are killed: what is lost, what grows, what each job ended as."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from engine import models
from engine.models import tahoe
from jobs.demo_cells import write_demo_cells
from storage.cells import CellStore
from storage.ingest import IngestOptions, ingest
from tests.benchmarks.report import Figure, main
from tests.benchmarks.soaking.kills import Kills
from tests.benchmarks.soaking.machines import Machines, namespaces, own_machine
from tests.benchmarks.soaking.memory import MemoryWatch, growth
from tests.benchmarks.soaking.repeated import Repeated
from tests.chaos.cache_runs import committed
from tests.chaos.switch import until, why_not
from tests.streaming.in_process import hashes

ABOUT = """Three machines made of namespaces (two Ray CPUs each, on the cores named below) run `cache` and
`train-sae` over and over, and `serve` (two replicas) under three callers that ask some ten questions a
second, all at the same time, on the demo's 700 cells. Every 20 seconds one is killed at random with SIGKILL:
an encoder, a training worker, a serving replica, a Serve proxy, the driver of a job, or all of a worker
machine, which loses power and is replaced. A job whose driver dies or that gives up is started again with the
same command. Each completed run is compared with a run before the first kill: for `cache` every object but
run.json, for `train-sae` the autoencoder's weights and configuration. Every question is asked until it is
answered. Growth is of the means over the last and the middle third of the half hour; resident memory is
without what processes share."""

MINUTES, EVERY_SECONDS = 30.0, 20.0
MACHINES, PORT, CALLERS = 3, 8000, 3
SECONDS_TO_END = 900.0
MIB = 1 << 20


@dataclass(frozen=True)
class Inputs:
    """Folders the jobs read."""

    cells: Path
    model: Path


def prepare(folder: Path, width: int) -> Inputs:
    write_demo_cells(folder / "pbmc68k.h5ad")
    ingest([str(folder / "pbmc68k.h5ad")], str(folder / "cells"), IngestOptions(gene_id_key="gene_name"))
    genes = list(CellStore.open(str(folder / "cells")).genes.index)
    encoder = tahoe.create(genes, d_model=width, n_layers=2, n_heads=2, max_tokens=512, seed=1)
    models.save(encoder, folder / "encoder")
    return Inputs(folder / "cells", folder / "encoder")


def job(name: str, address: str, output: Path, **flags: object) -> list[str]:
    given = [str(part) for flag, value in flags.items() for part in (f"--{flag.replace('_', '-')}", value)]
    return [sys.executable, "-m", f"jobs.{name}", "--address", address, "--output", str(output), *given]


def caching(machines: Machines, inputs: Inputs, folder: Path) -> Repeated:
    def command(output: Path) -> list[str]:
        sizes = {"hooks": "resid_post_0,final", "shard_tokens": 8192, "actors": 2}
        return job("cache", machines.address, output, cells=inputs.cells, model=inputs.model, **sizes)

    return Repeated("cache", machines, command, hashes, folder)


def training(machines: Machines, cache: Path, folder: Path) -> Repeated:
    def command(output: Path) -> list[str]:
        sizes = {"width": 512, "k": 16, "steps": 600, "batch_tokens": 1024, "checkpoint_every": 50}
        return job("train_sae", machines.address, output, cache=cache, hook="final", **sizes)

    return Repeated("train-sae", machines, command, autoencoder, folder)


def autoencoder(output: Path) -> dict[str, str]:
    """Hashes of what `train-sae` is run for."""
    files = [output / "sae_weights.safetensors", output / "cfg.json"]
    return {path.name: xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in files if path.exists()}


def make_index(machines: Machines, inputs: Inputs, folder: Path) -> Path:
    embeddings, index = folder / "embeddings", folder / "index"
    for command in (
        job("embed", machines.address, embeddings, cells=inputs.cells, model=inputs.model),
        job("index", machines.address, index, embeddings=embeddings),
    ):
        log = folder / "index.log"
        if machines.start(command, log).wait():
            raise RuntimeError(log.read_text()[-3000:])
    return index


class Serving(Repeated):
    """`serve`, begun again when its driver was killed, until it is told to stop."""

    patience = None

    def __init__(self, machines: Machines, index: Path, folder: Path) -> None:
        command = [sys.executable, "-m", "jobs.serve", "--index", str(index), "--replicas", "2"]
        more = ["--port", str(PORT), "--address", machines.address]
        super().__init__("serve", machines, lambda _: [*command, *more], lambda _: {}, folder)


@contextlib.contextmanager
def alongside(machines: Machines, command: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """A program on the head while the body runs; told to end behind it."""
    program = machines.start(command, log)
    try:
        yield program
    finally:
        machines.end(program)


def soak(machines: Machines, inputs: Inputs, folder: Path) -> list[Figure]:
    cache = caching(machines, inputs, folder)
    train = training(machines, cache.run_quietly(), folder)
    train.run_quietly()
    serve = Serving(machines, make_index(machines, inputs, folder), folder)
    report, jobs = folder / "answers.json", [cache, train, serve]
    asking = [sys.executable, "-m", "tests.benchmarks.soaking.load", str(PORT), str(report), str(CALLERS)]
    serve.start()
    with (
        watched(machines, folder) as memory,
        alongside(machines, asking, folder / "load.log"),
    ):
        until(report.exists, f"answers of the server; see {folder}", seconds=600)
        for one in (cache, train):
            one.start()
        kills = Kills(machines, jobs, EVERY_SECONDS, folder / "kills.txt")
        kills.start()
        time.sleep(60 * MINUTES)
        kills.over.set()
        memory.over.set()
        for one in jobs:
            one.over.set()
        for one in (cache, train):
            one.join(SECONDS_TO_END)
            assert not one.is_alive(), f"{one.name} does not come to its end: see {folder}"
    while serve.is_alive():
        if serve.running is not None:
            machines.end(serve.running)
        time.sleep(1)
    return [*of_jobs([cache, train], kills), *of_answers(report, serve), *of_memory(memory)]


@contextlib.contextmanager
def watched(machines: Machines, folder: Path) -> Iterator[MemoryWatch]:
    log = folder / "store.jsonl"
    watch = [sys.executable, "-m", "tests.benchmarks.soaking.store_watch", machines.address]
    with alongside(machines, watch, log):
        until(lambda: log.exists() and log.read_text() != "", f"a look at the object store; see {log}")
        memory = MemoryWatch(log)
        memory.start()
        yield memory


def glance(machines: Machines, inputs: Inputs, folder: Path) -> list[Figure]:
    """One run of `cache` whose encoder is killed."""
    cache = caching(machines, inputs, folder)
    cache.run_quietly()
    with watched(machines, folder) as memory:
        cache.start()
        cache.over.set()
        until(lambda: committed(folder / "cache-0") > 0 or not cache.is_alive(), "a member")
        kills = Kills(machines, [], 0.1, folder / "kills.txt")
        kills.start()
        until(lambda: bool(kills.done) or not cache.is_alive(), "an encoder to kill")
        kills.over.set()
        cache.join()
        memory.over.set()
        memory.join()
    return of_jobs([cache], kills)


def count(name: str, found: float, what: str) -> Figure:
    return Figure(
        name=name, value=found, unit="", target=None, better="higher", ours=found, theirs=None, theirs_is=what
    )


def of_jobs(jobs: list[Repeated], kills: Kills) -> Iterator[Figure]:
    hit = ", ".join(f"{n} {kind}s" for kind, n in sorted(kills.done.items()))
    yield count("kills", sum(kills.done.values()), hit)
    for one in jobs:
        tally = one.tally
        how = ", ".join(f"{n} {how}" for how, n in tally.attempts.most_common())
        yield count(f"{one.name}: runs completed", tally.completed, f"attempts: {how}")
        yield Figure.error(f"{one.name}: runs given up", tally.given_up, "runs", 0)
        objects = f"of {len(one.quiet)} objects of a quiet run, over all runs"
        yield Figure.error(f"{one.name}: objects lost", tally.lost, "objects", 0, objects)
        yield Figure.error(f"{one.name}: objects too many", tally.extra, "objects", 0, objects)
        yield Figure.error(f"{one.name}: objects of other bytes", tally.changed, "objects", 0, objects)


def of_answers(report: Path, serve: Serving) -> Iterator[Figure]:
    answers = json.loads(report.read_text())
    asked = answers["asked"]
    began = ", ".join(f"{n} {how}" for how, n in serve.tally.attempts.most_common())
    failed = ", ".join(f"{n} {why}" for why, n in sorted(answers["failures"].items())) or "none"
    yield count("serve: questions", asked, f"the server's driver: {began or 'never ended'}")
    yield Figure.error("serve: questions never answered", answers["unanswered"], "questions", 0)
    yield Figure.error("serve: answers other than before the kills", answers["wrong"], "answers", 0)
    share = sum(answers["failures"].values()) / max(asked, 1)
    yield Figure.error("serve: attempts without an answer per question", share, "", None, failed)
    yield Figure.error("serve: longest wait for an answer", answers["longest"], "s", None)
    yield Figure.error("serve: p99", 1e3 * float(np.percentile(answers["took"], 99)), "ms", None)


def of_memory(memory: MemoryWatch) -> Iterator[Figure]:
    used, size = memory.store()
    resident = f"peak {max(memory.resident) / MIB:,.0f} MiB, of one process {memory.largest / MIB:,.0f} MiB"
    later = "last third over the middle"
    stored = f"peak {max(used) / MIB:,.0f} of {size / MIB:,.0f} MiB"
    yield Figure.error(f"resident memory: {later}", growth(memory.resident), "x", 1.15, resident)
    yield Figure.error(f"processes: {later}", growth(memory.processes), "x", 1.15)
    yield Figure.error("object stores: largest share in use", max(used) / size, "of 1", 0.8, stored)
    yield Figure.error(f"object stores: {later}", growth(used), "x", 1.5)


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    (scratch / "cluster").mkdir()
    if smoke:
        with own_machine() as machine:
            return list(glance(machine, prepare(scratch, 16), scratch))
    if lacking := why_not():
        raise SystemExit(f"soak: {lacking}")
    inputs = prepare(scratch, 64)
    with namespaces(scratch / "cluster", MACHINES) as machines:
        return soak(machines, inputs, scratch)


if __name__ == "__main__":
    raise SystemExit(main("soak", ABOUT, measure))
