"""The stages wired into one Ray Data pipeline, with the resources each of them needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from engine.streaming.encoders import Assignment, EncodeMembers, EncoderSpec
from engine.streaming.inputs import Inputs
from engine.streaming.products import Member, Product
from engine.streaming.recipe import Recipe, Workers
from engine.streaming.sink import CommitSink, Spent
from engine.streaming.source import CellSource
from storage.commits import Dataset

# Reading, tokenising and committing wait more than they compute. A quarter CPU each leaves them room beside
# the actors even on two cores, where whole CPUs would let nothing commit until everything had been read.
IO_CPUS = 0.25

# Ray's default is to retry for ever, so that one poison member would be retried for ever.
RETRIES = 3
TASK_OPTIONS = {"num_cpus": IO_CPUS, "max_retries": RETRIES}

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
) -> Spent:
    """Encode and commit the pending members on the connected Ray; returns what the committed ones took.

    Raises what Ray raises when a member fails for good.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    n_actors = min(workers.actors or _default_actors(gpus, workers.threads), len(pending))
    spec = EncoderSpec(
        inputs.model.path, recipe.precision, recipe.batch_tokens, workers.threads, "cuda" if gpus else "cpu"
    )
    sink = CommitSink()
    with DataContext.current(_context()):
        rows = ray.data.read_datasource(
            CellSource(inputs.store, pending),
            override_num_blocks=len(pending),
            ray_remote_args=dict(TASK_OPTIONS),
        )
        tokens = rows.map_batches(
            _call(inputs.tokeniser(recipe.max_tokens, recipe.seed)),
            batch_size=1,
            batch_format="pyarrow",
            zero_copy_batch=True,
            **TASK_OPTIONS,
        )
        encoded = tokens.map_batches(
            EncodeMembers,
            fn_constructor_args=(spec, Assignment(dataset, product, owner, courteous)),
            batch_size=1,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(min_size=1, max_size=n_actors, initial_size=n_actors),
            **_actor_options(workers.threads, gpus),
        )
        encoded.write_datasink(sink, ray_remote_args=dict(TASK_OPTIONS))
    return sink.spent


def _call(stage: Any) -> Any:
    """Ray runs callable objects of a class as actors and functions as tasks; this stage is a task."""

    def tokenise(row: Any) -> Any:
        return stage(row)

    return tokenise


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
    context.retried_map_errors = list(TRANSIENT)
    context.max_map_retries = RETRIES
    return context
