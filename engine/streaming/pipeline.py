"""The stages wired into one Ray Data pipeline, with the resources each of them needs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.util.annotations import RayDeprecationWarning

from engine.streaming.capacity import IO_CPUS, RETRIES, Capacity, PoolSize, pool_size
from engine.streaming.encoders import Assignment, EncodeMembers, OwnReading
from engine.streaming.inputs import Inputs
from engine.streaming.members import Member
from engine.streaming.metrics import Spent
from engine.streaming.products.product import Product
from engine.streaming.ray_data import BY_MEMBER, TASK_OPTIONS, quiet_context
from engine.streaming.recipe import Recipe, Workers
from engine.streaming.replicas import EncoderSpec, PlacementGroups
from engine.streaming.sink import CommitSink
from engine.streaming.source import CellSource, one_row
from engine.streaming.tokenising import TokeniseMembers
from storage.cells import CellStore
from storage.commits import Dataset


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
    board: Any,
) -> Spent:
    """Encode and commit the pending members on the connected Ray; returns what the committed ones took.

    board: handle of the `ActivityBoard` that is told of every member encoded.
    Raises what Ray raises when a member fails for good, and NoRoom where no encoder fits.
    """
    capacity, n_devices = Capacity.now(), recipe.tensor_parallel
    pool = pool_size(capacity, workers, n_devices, len(pending))
    of_device = {"CPU": pool.cpus_per_device} | ({"GPU": 1.0} if capacity.has_gpus else {})
    device = "cuda" if capacity.has_gpus else "cpu"
    spec = EncoderSpec(
        inputs.model.path,
        recipe.precision,
        recipe.batch_tokens,
        workers.threads,
        device,
        n_devices,
        inputs.model.drug_token,
    )
    groups = PlacementGroups(n_devices, of_device) if n_devices > 1 else None
    fused = device == "cpu" if workers.fused is None else workers.fused
    reading = OwnReading(inputs.store, recipe.max_tokens, recipe.seed) if fused else None
    cpus_left = capacity.cpus - pool.initial * n_devices * pool.cpus_per_device
    sink = CommitSink()
    with DataContext.current(_context(fused=fused)), warnings.catch_warnings():
        # The named parameters that replace ray_remote_args from Ray 2.64 on have no bound on retries in 2.60.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        if fused:
            # Not from_arrow, which runs a task for each table to learn how many rows it has.
            rows = ray.data.from_blocks([one_row(member) for member in pending])
        else:
            tokenise = inputs.tokeniser(recipe.max_tokens, recipe.seed)
            rows = _tokenised(inputs.store, pending, tokenise, _reader_cpus(cpus_left, grows=capacity.grows))
        encoded = rows.map_batches(
            EncodeMembers,
            fn_constructor_args=(spec, Assignment(dataset, product, owner, courteous), reading, board),
            compute=_compute(pool, groups),
            ray_remote_args_fn=groups,
            num_cpus=of_device["CPU"],
            num_gpus=of_device.get("GPU"),
            max_restarts=RETRIES,
            # Bound by the restarts, which a poison member uses up. While the head is away too, each look at a
            # lost encoder counts as a try, and there are several a second.
            max_task_retries=-1,
            **BY_MEMBER,
        )
        try:
            encoded.write_datasink(sink, concurrency=pool.most, ray_remote_args=dict(TASK_OPTIONS))
        finally:
            if groups:
                groups.remove()
    return sink.spent


def _compute(pool: PoolSize, groups: PlacementGroups | None) -> ActorPoolStrategy:
    # A replica's place stays taken until the stream ends, so a pool of them does not shrink to grow again.
    fewest = pool.initial if groups else 1
    return ActorPoolStrategy(min_size=fewest, max_size=pool.most, initial_size=pool.initial)


def _reader_cpus(cpus_left: float, *, grows: bool) -> float:
    """CPUs of a task that reads and tokenises: the one it keeps busy, unless the encoders leave too few.

    Nothing else says how many such tasks run. Ray Data starts them while what is read ahead of the encoders
    fits its share of the object store, hence as many as the measured rates of both sides ask for.
    """
    return 1.0 if grows or cpus_left >= 2 else IO_CPUS


def _tokenised(
    store: CellStore, pending: Sequence[Member], tokenise: TokeniseMembers, cpus: float
) -> ray.data.Dataset:
    """Rows of tokens, from tasks that read and tokenise: Ray fuses stages that ask for the same resources."""
    options = TASK_OPTIONS | {"num_cpus": cpus}
    rows = ray.data.read_datasource(
        CellSource(store, pending), override_num_blocks=len(pending), ray_remote_args=dict(options)
    )
    # Ray runs functions as tasks and callable objects as actors.
    return rows.map_batches(partial(_call, tokenise), **BY_MEMBER, **options)


def _call(tokenise: TokeniseMembers, row: pa.Table) -> pa.Table:
    return tokenise(row)


def _context(*, fused: bool) -> DataContext:
    context = quiet_context()
    if fused:
        # Ray Data would keep half of all CPUs in equal parts for each stage, and a pool of encoders could
        # not grow onto a machine that comes. Committing needs next to nothing, and nothing large is on its
        # way between the two stages.
        context.op_resource_reservation_enabled = False
    return context
