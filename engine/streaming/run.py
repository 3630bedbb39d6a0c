"""One run of a stream: plan, skip what is committed, stream the rest, finish the dataset.

    members pending -> read + tokenise (tasks, 0.25 CPU) -> encode, write objects (actors) -> commit (tasks,
    0.25 CPU)

Killing anything loses at most the members in flight. The same call again does what is left.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine import ray_session
from engine.streaming.inputs import SPECIAL_PER_CELL, Inputs
from engine.streaming.members import Member
from engine.streaming.products.product import Product, Source
from engine.streaming.recipe import Recipe, Workers
from storage.commits import Dataset, Snapshot
from storage.locations import Location
from storage.protocol import leases

if TYPE_CHECKING:
    from engine.streaming.sink import Spent

# done, total, unit
Progress = Callable[[int, int, str], None]

PROGRESS_EVERY_SECONDS = 2.0


class StreamFailed(RuntimeError):
    """The stream ended before all members were committed. Names the members; running again resumes."""


@dataclass(frozen=True)
class Encoding:
    """What `encode` did. `did_work` is False when the dataset was complete already.

    cells, tokens, seconds (wall), encoder_seconds (summed over actors): of this run, not of resumed members.
    """

    snapshot: Snapshot
    did_work: bool
    n_members: int
    n_resumed: int = 0
    cells: int = 0
    tokens: int = 0
    seconds: float = 0.0
    encoder_seconds: float = 0.0
    peak_memory_bytes: int | None = None


def lineage(inputs: Inputs, product: Product, recipe: Recipe) -> dict[str, Any]:
    """Everything the values on disk depend on."""
    return {
        "cells": inputs.store.dataset_id,
        "n_cells": inputs.n_cells,
        "model": inputs.model.fingerprint,
        "max_tokens": recipe.max_tokens,
        "compute": recipe.precision,
        "token_seed": recipe.seed,
        "batch_tokens": recipe.batch_tokens,
        product.kind: dict(product.lineage()),
    }


def plan(
    inputs: Inputs, product: Product, recipe: Recipe, output: Location, *, overwrite: bool = False
) -> Dataset:
    """Start the dataset at `output`, or take up the one there. Raises LineageMismatch for another lineage."""
    nnz_per_cell = inputs.store.nnz_per_cell[: inputs.n_cells]
    members = product.members(nnz_per_cell, recipe.max_tokens, SPECIAL_PER_CELL)
    return Dataset.plan(
        output,
        kind=product.kind,
        lineage=lineage(inputs, product, recipe),
        members=members,
        overwrite=overwrite,
    )


def encode(
    inputs: Inputs,
    product: Product,
    output: Location,
    *,
    recipe: Recipe,
    workers: Workers | None = None,
    overwrite: bool = False,
    report: Progress | None = None,
) -> Encoding:
    """Make `product` of the cells at `output`, taking up what an earlier run has committed.

    Raises InputError before anything is written when inputs and options do not go together, and StreamFailed
    naming the members when one cannot be encoded.
    """
    dataset = plan(inputs, product, recipe, output, overwrite=overwrite)
    if dataset.is_complete:
        return Encoding(dataset.finish(), did_work=False, n_members=len(dataset.members))
    workers = workers or Workers()
    n_resumed = len(dataset.members) - len(dataset.pending())
    started = time.monotonic()
    with _progress(dataset, report or (lambda done, total, unit: None)):
        spent = _stream_all(inputs, product, dataset, recipe, workers)
    source = Source(inputs.store, inputs.n_cells, inputs.model.tokeniser)
    return Encoding(
        snapshot=product.finish(dataset, source),
        did_work=True,
        n_members=len(dataset.members),
        n_resumed=n_resumed,
        cells=spent.cells,
        tokens=spent.tokens,
        seconds=time.monotonic() - started,
        encoder_seconds=spent.encoder_seconds,
        peak_memory_bytes=spent.peak_memory_bytes or None,
    )


def _stream_all(
    inputs: Inputs, product: Product, dataset: Dataset, recipe: Recipe, workers: Workers
) -> Spent:
    """First the members nobody else works on, then, whatever leases say, those that are still missing.

    Two jobs that race share the work this way, and a job that was killed keeps its members from nobody.
    """
    # Imports Ray, which a job that finds everything done can spare itself.
    from engine.streaming.pipeline import stream
    from engine.streaming.sink import Spent

    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    spent = Spent()
    pending = dataset.pending()
    if not pending:
        return spent
    with ray_session.connect(workers.address), _named_failures(dataset):
        for courteous in (True, False):
            members = [Member.of(member) for member in pending]
            spent += stream(inputs, product, dataset, members, recipe, workers, owner, courteous=courteous)
            pending = dataset.pending()
            if not pending:
                break
    return spent


@contextmanager
def _named_failures(dataset: Dataset) -> Iterator[None]:
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise StreamFailed(f"{dataset.location}: {_last_line(error)}. {_suspects(dataset)}") from error


def _last_line(error: BaseException) -> str:
    """What the worker said: Ray's message ends with it, and with advice on options we do not offer."""
    said = str(error).split("\nFailed to apply", 1)[0]
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return last.removeprefix("engine.streaming.encoders.MemberFailed: ")


def _suspects(dataset: Dataset) -> str:
    """The members that were being worked on, those first that were begun most often.

    A member that kills its process takes its name with it; its leases stay.
    """
    pending = {member.key: Member.of(member) for member in dataset.pending()}
    begun = {key: times for key, times in leases.begun(dataset.location).items() if key in pending}
    worst = sorted(begun, key=lambda key: (-begun[key], key))[:5]
    tried = ", ".join(f"{pending[key]} begun {begun[key]} times" for key in worst) or "none was begun"
    return f"{len(pending)} of {len(dataset.members)} members are not committed; in work: {tried}"


@contextmanager
def _progress(dataset: Dataset, report: Progress) -> Iterator[None]:
    """Reports committed cells while the body runs. The records are the truth, whoever wrote them."""
    cells = {member.key: Member.of(member).stop - Member.of(member).start for member in dataset.members}
    total, ended = sum(cells.values()), threading.Event()

    def tell() -> None:
        report(total - sum(cells[member.key] for member in dataset.pending()), total, "cells")

    def watch() -> None:
        took = 0.0
        # A listing of a large dataset on an object store is slow: spend at most a twentieth of the time on
        # it.
        while not ended.wait(max(PROGRESS_EVERY_SECONDS, 20 * took)):
            began = time.monotonic()
            tell()
            took = time.monotonic() - began

    watcher = threading.Thread(target=watch, daemon=True)
    tell()
    watcher.start()
    try:
        yield
        tell()
    finally:
        ended.set()
        watcher.join()
