"""Several autoencoders trained from one stream of activations by one group of workers.

Each member is a run like any other, with a directory, a curve and checkpoints of its own, and gives bit for
bit what it would give alone; only the making of activations is shared. So a sweep that was interrupted goes
on wherever each member is: the stream begins where the one that is furthest behind stands, the others join
when it reaches them.

OUTPUT/<name>/           everything a lone run writes
OUTPUT/sweep.parquet     one row a member: its sizes, how it ended, what it is worth
"""

import io
import json
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine import ray_session
from engine.models.sae.checkpoint import CONFIG
from engine.training import output as outputs
from engine.training.activation_sources import batches_of
from engine.training.checkpoint import Checkpoints
from engine.training.loop import OnCheckpoint, Progress, Run
from engine.training.options import TrainingOptions
from engine.training.recipe import Share
from engine.training.recipes.sae.architectures import AIMED_AT
from engine.training.recipes.sae.recipe import SparseRecipe, batch_of
from engine.training.recipes.sae.statistics import statistics_of
from engine.training.room import Room
from engine.training.run import TrainingReport, ready, report_of, room_for, train_here, train_on_ray
from engine.training.sharding import Worker
from storage.errors import InputError
from storage.locations import Location

TABLE = "sweep.parquet"


@dataclass(frozen=True)
class Member:
    """One autoencoder of a sweep; `name` is its directory."""

    name: str
    recipe: SparseRecipe
    options: TrainingOptions


def run_sweep(
    members: Sequence[Member],
    output: Location,
    *,
    overwrite: bool = False,
    address: str | None = None,
    progress: Progress = lambda done, total, unit: None,
) -> dict[str, TrainingReport]:
    """Train all members into `output`, or finish what is there; reports by name.

    Members differ in their recipes and learning rates only. Raises what `run_training` raises, before
    anything is written.
    """
    _require_one_stream(members)
    _require_no_lone_run(output)
    finished = {
        member.name: outputs.is_finished(
            output / member.name, member.recipe, member.options, overwrite=overwrite
        )
        for member in members
    }
    first = dict.fromkeys(finished, 0)
    options = members[0].options
    if not all(finished.values()):
        with ray_session.connect(address) if options.workers else nullcontext():
            room = room_for(members[0].recipe.actors, options) if options.workers else None
            for member in members:
                if not finished[member.name]:
                    outputs.begin(output / member.name, member.recipe, member.options, overwrite=overwrite)
                    first[member.name] = ready(output / member.name, member.options)
            work = partial(train_sweep, members, output)
            if room:
                train_on_ray(work, options, output, room, progress)
            else:
                train_here(work, options, progress)
    reports = {
        name: report_of(output / name, first[name], did_work=not done) for name, done in finished.items()
    }
    _write_table(members, reports, output)
    return reports


def train_sweep(
    members: Sequence[Member],
    output: Location,
    worker: Worker,
    progress: Progress,
    on_checkpoint: OnCheckpoint,
    room: Room | None = None,
) -> None:
    """What every worker does: each member's steps from where it stands to the end, then the models.

    Collective. Ray Train is not told of checkpoints: it knows of one a run.
    """
    options = members[0].options
    share = Share(worker.rank, worker.world, options.batch, options.accumulation, options.seed, room)
    members = _unfinished(members, output, worker)
    members = _measured(members, output, worker, share)
    runs = [Run(member.recipe, member.options, output / member.name, worker, room) for member in members]
    first = min((run.next_step for run in runs), default=options.steps)
    if first < options.steps:
        sources = [member.recipe.source for member in members]
        with closing(batches_of(sources, first, share, worker.device)) as stream:
            for step in range(first, options.steps):
                parts = list(islice(stream, share.accumulation))
                for run, source in zip(runs, sources, strict=True):
                    if run.next_step == step:
                        run.step(batch_of(part[source], step) for part in parts)
                if worker.leads:
                    progress(step + 1, options.steps, "steps")
    for run in runs:
        run.finish()


def _unfinished(members: Sequence[Member], output: Location, worker: Worker) -> list[Member]:
    found = [
        member.name
        for member in members
        if worker.leads
        and not outputs.is_finished(output / member.name, member.recipe, member.options, overwrite=False)
    ]
    names = worker.agree(found)
    return [member for member in members if member.name in names]


def _measured(members: Sequence[Member], output: Location, worker: Worker, share: Share) -> list[Member]:
    """The same members; those without a checkpoint know the statistics of their activations."""
    found = [
        member.name
        for member in members
        if worker.leads and Checkpoints(output / member.name, member.options.keep).newest() is None
    ]
    names = worker.agree(found)
    starting = [member for member in members if member.name in names]
    wanted = list(dict.fromkeys((member.recipe.source, member.recipe.wanted) for member in starting))
    statistics = statistics_of(wanted, share, worker.device)
    return [
        replace(
            member,
            recipe=replace(
                member.recipe, statistics=statistics.get((member.recipe.source, member.recipe.wanted))
            ),
        )
        for member in members
    ]


def _require_one_stream(members: Sequence[Member]) -> None:
    names = [member.name for member in members]
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"a sweep needs autoencoders with different names; found {', '.join(names) or 'none'}."
        )
    alike = {replace(member.options, learning_rate=1.0) for member in members}
    if len(alike) > 1 or len({type(member.recipe.source) for member in members}) > 1:
        raise InputError(
            "the autoencoders of a sweep may differ in their sizes and learning rates, not in "
            "how and from what they are trained."
        )
    if members[0].options.feature_parallel > 1:
        raise InputError(
            "--feature-parallel: the autoencoders of a sweep are whole on every worker; train one that has "
            "to be cut by itself."
        )


def _require_no_lone_run(output: Location) -> None:
    if output.exists(outputs.PLAN) or output.exists(outputs.RECORD):
        raise InputError(f"{output}: holds a training run of one autoencoder; give another --output.")


def _write_table(members: Sequence[Member], reports: dict[str, TrainingReport], output: Location) -> None:
    rows = [_row(member, reports[member.name], output / member.name) for member in members]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd")
    output.put(TABLE, sink.getvalue())


def _row(member: Member, report: TrainingReport, directory: Location) -> dict[str, Any]:
    recipe, config = member.recipe, json.loads(directory.read(CONFIG))
    metadata = config["metadata"]
    return {
        "name": member.name,
        "architecture": recipe.architecture,
        "hook": recipe.source.hook,
        "width": recipe.width,
        "k": recipe.k if recipe.architecture in AIMED_AT else None,
        "init_seed": metadata["init_seed"],
        "learning_rate": member.options.learning_rate,
        "sparsity_coefficient": metadata["sparsity_coefficient"],
        "fvu": metadata.get("reference_fvu"),
        "l0": metadata.get("reference_l0"),
        "dead_features": metadata["num_dead_features"],
        "gamma": metadata["activations"]["gamma"],
        "final_loss": report.final["loss"],
        "steps": report.steps,
        "tokens": report.tokens,
        "seconds": report.seconds,
    }
