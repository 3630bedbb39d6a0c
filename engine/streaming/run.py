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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from engine import ray_session
from engine.streaming.inputs import SPECIAL_PER_CELL, Inputs
from engine.streaming.members import Member
from engine.streaming.metrics import Activity, ActivityBoard, Spent
from engine.streaming.products.product import Product, Source
from engine.streaming.recipe import Recipe, Workers
from storage.commits import Dataset, Snapshot
from storage.errors import StoreUnavailable
from storage.locations import Location
from storage.protocol import leases

# done, total, unit, what else is worth saying
Progress = Callable[[int, int, str, str], None]

PROGRESS_EVERY_SECONDS = 2.0


class StreamFailed(RuntimeError):
    """The stream ended before all members were committed. Names the members; running again resumes."""


@dataclass(frozen=True)
class Encoding:
    """What `encode` did. `did_work` is False when the dataset was complete already.

    spent, seconds (wall), busy_share (of the encoders' time, see `Activity`): of this run, not of resumed
    members.
    """

    snapshot: Snapshot
    did_work: bool
    n_members: int
    n_resumed: int = 0
    spent: Spent = field(default_factory=Spent)
    seconds: float = 0.0
    busy_share: float | None = None


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
        "tensor_parallel": recipe.tensor_parallel,
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
    spent, busy_share = _stream_all(inputs, product, dataset, recipe, workers, report)
    source = Source(inputs.store, inputs.n_cells, inputs.model.tokeniser)
    return Encoding(
        snapshot=product.finish(dataset, source),
        did_work=True,
        n_members=len(dataset.members),
        n_resumed=n_resumed,
        spent=spent,
        seconds=time.monotonic() - started,
        busy_share=busy_share,
    )


def _stream_all(
    inputs: Inputs,
    product: Product,
    dataset: Dataset,
    recipe: Recipe,
    workers: Workers,
    report: Progress | None,
) -> tuple[Spent, float | None]:
    """First the members nobody else works on, then, whatever leases say, those that are still missing.

    Two jobs that race share the work this way, and a job that was killed keeps its members from nobody.
    """
    pending = dataset.pending()
    if not pending:
        return Spent(), None
    # Imported here: a job that finds everything done can spare itself Ray.
    import ray

    from engine.streaming.pipeline import stream

    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    spent = Spent()
    with ray_session.connect(workers.address), _named_failures(dataset):
        board = ray_session.beside_the_driver(ActivityBoard)
        with _progress(dataset, lambda: ray.get(board.read.remote()), report or _say_nothing):
            for courteous in (True, False):
                members = [Member.of(member) for member in pending]
                spent += stream(
                    inputs,
                    product,
                    dataset,
                    members,
                    recipe,
                    workers,
                    owner,
                    courteous=courteous,
                    board=board,
                )
                pending = dataset.pending()
                if not pending:
                    break
        activity: Activity = ray.get(board.read.remote())
    return spent, activity.busy_share


def _say_nothing(done: int, total: int, unit: str, beside: str) -> None:
    """Where nobody asked for progress."""


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
def _progress(dataset: Dataset, read: Callable[[], Activity], report: Progress) -> Iterator[None]:
    """Reports committed cells while the body runs, and beside them what the encoders tell.

    The records are the truth about cells, whoever wrote them; rates and shares are of this run.
    """
    cells = {member.key: Member.of(member).stop - Member.of(member).start for member in dataset.members}
    total, ended, began = sum(cells.values()), threading.Event(), time.monotonic()

    def tell() -> None:
        done = total - sum(cells[member.key] for member in dataset.pending())
        report(done, total, "cells", _beside(read(), time.monotonic() - began))

    def watch() -> None:
        took = 0.0
        # A listing of a large dataset on an object store is slow: spend at most a twentieth of the time on
        # it.
        while not ended.wait(max(PROGRESS_EVERY_SECONDS, 20 * took)):
            asked = time.monotonic()
            # Whether a store in trouble ends the run is for those to say who need it.
            with suppress(StoreUnavailable):
                tell()
            took = time.monotonic() - asked

    watcher = threading.Thread(target=watch, daemon=True)
    tell()
    watcher.start()
    try:
        yield
        tell()
    finally:
        ended.set()
        watcher.join()


def _beside(activity: Activity, seconds: float) -> str:
    """What is said beside the number of cells; nothing before the first member is encoded."""
    useful, busy = activity.spent.useful_token_share, activity.busy_share
    if useful is None or busy is None:
        return ""
    rate = activity.spent.tokens / max(seconds, 1e-9)
    return f"{rate:,.0f} tokens/s, {useful:.1%} of token slots used, encoders busy {busy:.0%}"
