"""The stages wired into one Ray Data pipeline, with the resources each of them needs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.util.annotations import RayDeprecationWarning

from engine.streaming.encoders import Assignment, EncodeMembers, EncoderSpec, OwnReading
from engine.streaming.inputs import Inputs
from engine.streaming.members import Member
from engine.streaming.metrics import Spent
from engine.streaming.products.product import Product
from engine.streaming.recipe import Recipe, Workers
from engine.streaming.sink import CommitSink
from engine.streaming.source import CellSource, one_row
from engine.streaming.tokenising import TokeniseMembers
from storage.cells import CellStore
from storage.commits import Dataset

# Beside GPU actors, reading, tokenising and committing are tasks that wait more than they compute. A quarter
# CPU each leaves them room on a small machine, where whole CPUs would let nothing commit until everything
# had been read.
IO_CPUS = 0.25
READERS_PER_ACTOR = 4

# Ray's default is to retry for ever, so that one poison member would be retried for ever.
RETRIES = 3
TASK_OPTIONS = {"num_cpus": IO_CPUS, "max_retries": RETRIES}

# A row is a whole member.
BY_MEMBER = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}

# Messages of storage and network trouble that goes away; anything else a stage raises ends the job at once.
TRANSIENT = ["timed out", "Connection reset", "Connection aborted", "SlowDown", "Service Unavailable"]


def stream(
    inputs: Inputs,
    product: Product,
    dataset: Dataset,
    pending: Sequence[Member],
    recipe: Recipe,
    workers: Workers,
    owner: str,
    *,
    courteous: bool,
    board: Any | None = None,
) -> Spent:
    """Encode and commit the pending members on the connected Ray; returns what the committed ones took.

    board: handle of the `ActivityBoard` that is told of every member encoded.

    Raises what Ray raises when a member fails for good.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    n_actors = min(workers.actors or _default_actors(gpus, workers.threads), len(pending))
    spec = EncoderSpec(
        inputs.model.path, recipe.precision, recipe.batch_tokens, workers.threads, "cuda" if gpus else "cpu"
    )
    fused = not gpus if workers.fused is None else workers.fused
    sink = CommitSink()
    with DataContext.current(_context()), warnings.catch_warnings():
        # The named parameters that replace ray_remote_args from Ray 2.64 on have no bound on retries in 2.60.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        if fused:
            rows = ray.data.from_arrow([one_row(member) for member in pending])
            reading = OwnReading(inputs.store, recipe.max_tokens, recipe.seed)
        else:
            tokenise = inputs.tokeniser(recipe.max_tokens, recipe.seed)
            rows = _tokenised(inputs.store, pending, tokenise, n_actors * READERS_PER_ACTOR)
            reading = None
        encoded = rows.map_batches(
            EncodeMembers,
            fn_constructor_args=(spec, Assignment(dataset, product, owner, courteous), reading, board),
            compute=ActorPoolStrategy(min_size=1, max_size=n_actors, initial_size=n_actors),
            **BY_MEMBER,
            **_actor_options(workers.threads, gpus),
        )
        encoded.write_datasink(sink, concurrency=n_actors, ray_remote_args=dict(TASK_OPTIONS))
    return sink.spent


def _tokenised(
    store: CellStore, pending: Sequence[Member], tokenise: TokeniseMembers, n_readers: int
) -> ray.data.Dataset:
    """Rows of tokens, from tasks that read and tokenise: Ray fuses stages that ask for the same resources."""
    rows = ray.data.read_datasource(
        CellSource(store, pending),
        override_num_blocks=len(pending),
        concurrency=n_readers,
        ray_remote_args=dict(TASK_OPTIONS),
    )
    # Ray runs functions as tasks and callable objects as actors.
    return rows.map_batches(partial(_call, tokenise), concurrency=n_readers, **BY_MEMBER, **TASK_OPTIONS)


def _call(tokenise: TokeniseMembers, row: pa.Table) -> pa.Table:
    return tokenise(row)


def _default_actors(gpus: int, threads: int) -> int:
    return gpus or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)


def _actor_options(threads: int, gpus: int) -> dict[str, Any]:
    options: dict[str, Any] = {"max_restarts": RETRIES, "max_task_retries": RETRIES}
    # Each actor leaves a quarter of its last CPU to the stages that feed it and commit for it.
    options["num_cpus"] = threads - IO_CPUS
    if gpus:
        options["num_gpus"] = 1
    return options


def _context() -> DataContext:
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    # Its notices of starting and ending would stand between our lines of progress.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context.retried_map_errors = list(TRANSIENT)
    context.max_map_retries = RETRIES
    return context
