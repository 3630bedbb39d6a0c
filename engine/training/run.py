"""A training run from the driver's side: plan, Ray Train workers around `engine.training.loop`, result."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from engine import ray_session
from engine.models.errors import ModelError
from engine.training import output as outputs
from engine.training.board import Board
from engine.training.checkpoint import FOLDER, Checkpoints, Committed
from engine.training.loop import OnCheckpoint, Progress, train
from engine.training.options import TrainingOptions
from engine.training.recipe import Recipe
from engine.training.room import Room, plan_room
from engine.training.sharding import Worker, join_workers
from storage.errors import InputError
from storage.locations import Location

# Written by Ray Train over and over in place; see engine.training.checkpoint for why it is not read.
_RAY_SNAPSHOT = "checkpoint_manager_snapshot.json"
PROGRESS_SECONDS = 0.5

Work = Callable[[Worker, Progress, OnCheckpoint, Room | None], None]
"""What every worker does, from the newest checkpoints to the end; picklable. See `loop.train`."""


@dataclass(frozen=True)
class TrainingReport:
    """What a run did. `first_step` > 0 when it continued from a checkpoint."""

    did_work: bool
    first_step: int
    steps: int
    lineage_id: str
    tokens: int
    """Tokens trained on in the whole run."""
    seconds: float
    """What its steps took; start-up and checkpoints are not counted."""
    final: dict[str, float]
    """Metrics of the last step."""
    peak_memory_bytes: int
    """Largest resident memory of any worker."""


def run_training(
    recipe: Recipe,
    options: TrainingOptions,
    output: Location,
    *,
    overwrite: bool = False,
    address: str | None = None,
    progress: Progress = lambda done, total, unit: None,
) -> TrainingReport:
    """Train `recipe` into `output`, or finish what is there; on Ray unless `workers` is 0.

    Lost workers are replaced and go on from the newest checkpoint, up to `max_failures` times; a lost driver
    leaves everything needed to call this again. Raises InputError and LineageMismatch before anything is
    written, and RuntimeError (resumable) when the workers keep failing.
    """
    first_step = 0
    finished = outputs.is_finished(output, recipe, options, overwrite=overwrite)
    if not finished:
        with ray_session.connect(address) if options.workers else nullcontext():
            room = room_for(recipe.actors, options) if options.workers else None
            outputs.begin(output, recipe, options, overwrite=overwrite)
            first_step = ready(output, options)
            work = partial(train, recipe, options, output)
            if room:
                train_on_ray(work, options, output, room, progress)
            else:
                train_here(work, options, progress)
    return report_of(output, first_step, did_work=not finished)


def report_of(output: Location, first_step: int, *, did_work: bool) -> TrainingReport:
    """What a finished run's record says."""
    record = outputs.read_end(output)
    return TrainingReport(
        did_work=did_work,
        first_step=first_step,
        steps=int(record["steps"]),
        lineage_id=str(record["lineage_id"]),
        tokens=int(record["tokens"]),
        seconds=float(record["seconds"]),
        final=dict(record["final"]),
        peak_memory_bytes=int(record["peak_memory_bytes"]),
    )


def ready(output: Location, options: TrainingOptions) -> int:
    """The first step; clears what is in the way."""
    checkpoints = Checkpoints(output, options.keep)
    newest = checkpoints.newest()
    checkpoints.clean()
    (output / FOLDER).delete(_RAY_SNAPSHOT)
    return newest.step if newest else 0


def room_for(actors: int | None, options: TrainingOptions) -> Room:
    """What to reserve in the Ray we are connected to, for workers and `Recipe.actors`."""
    # Imports Ray, which a process that trains by itself can spare itself.
    from engine.streaming.capacity import Capacity

    there = Capacity.now()
    return plan_room(options, actors, cpus=there.cpus, gpus=there.gpus, grows=there.grows)


def train_here(work: Work, options: TrainingOptions, progress: Progress) -> None:
    """Do it in this process, and leave torch as it was: DeepSpeed's ZeRO-3 puts a linear layer of its own in
    the place of torch's and lets it stay, where other models of this process would find it."""
    linear = torch.nn.functional.linear
    try:
        work(join_workers(0, 1, options.cpus_per_worker), progress, _ignore, None)
    finally:
        torch.nn.functional.linear = linear


def train_on_ray(
    work: Work, options: TrainingOptions, output: Location, room: Room, progress: Progress
) -> None:
    """Do it in the workers of Ray Train; lost ones are replaced. Raises what `run_training` raises."""
    import ray
    import ray.train
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    use_gpu = room.worker_gpus > 0
    board = ray_session.beside_the_driver(Board)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "work": work,
            "options": options,
            "room": room,
            "board": board,
        },
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=options.workers,
            use_gpu=use_gpu,
            resources_per_worker={
                "CPU": room.worker_cpus,
                **({"GPU": room.worker_gpus} if use_gpu else {}),
            },
        ),
        run_config=RunConfig(
            name=FOLDER,
            **_ray_storage(output),
            failure_config=FailureConfig(max_failures=options.max_failures),
            callbacks=[_end_when_refused(board)],
        ),
    )
    with _shown(board, progress):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            refusal = ray.get(board.refusal.remote())
            if refusal is not None:
                raise refusal from error
            raise RuntimeError(f"training failed after {options.max_failures} restarts: {error}") from error
    (output / FOLDER).delete(_RAY_SNAPSHOT)


def _ray_storage(output: Location) -> dict[str, Any]:
    """Where Ray Train keeps its records: beside ours, through the same credentials and endpoint."""
    if output.local is not None:
        return {"storage_path": str(output.local)}
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, path = fsspec.core.url_to_fs(str(output))
    return {"storage_path": path, "storage_filesystem": PyFileSystem(FSSpecHandler(filesystem))}


def _worker(config: dict[str, Any]) -> None:
    """One training process of Ray Train."""
    import ray.train

    context = ray.train.get_context()
    options: TrainingOptions = config["options"]
    worker = join_workers(context.get_world_rank(), context.get_world_size(), options.cpus_per_worker)
    board = config["board"]

    def show(done: int, total: int, unit: str) -> None:
        board.show.remote(done, total, unit)

    def report(metrics: dict[str, float], committed: Committed) -> None:
        # Only with checkpoints: the controller takes one report every health-check interval (2 s). The
        # files are already durable under OUTPUT/checkpoints; Ray is told for its result and its dashboard.
        storage = context.get_storage()
        checkpoint = ray.train.Checkpoint(
            f"{storage.experiment_fs_path}/{committed.name}", filesystem=storage.storage_filesystem
        )
        ray.train.report(
            metrics, checkpoint=checkpoint, checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD
        )

    try:
        config["work"](worker, show, report, config["room"])
    except (InputError, ModelError) as error:
        # Told before the controller hears of a failed worker, which it would otherwise replace.
        ray.get(board.refuse.remote(error))
        raise


def _end_when_refused(board: Any) -> Any:
    """Ends the run when a worker has refused its input: another worker would refuse it again."""
    import ray
    from ray.train import UserCallback

    class EndWhenRefused(UserCallback):  # type: ignore[misc]
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            refusal = ray.get(board.refusal.remote())
            if refusal is not None:
                # Ray Train retries what workers raise and gives up on what a callback raises.
                raise refusal

    return EndWhenRefused()


def _ignore(metrics: dict[str, float], committed: Committed) -> None:
    """In this process there is nobody to report to."""


@contextmanager
def _shown(board: Any, progress: Progress) -> Iterator[None]:
    """While inside, hand what rank 0 writes on the board to the driver's `progress`."""
    import ray

    over = threading.Event()

    def follow() -> None:
        last = None
        while True:
            ending = over.wait(PROGRESS_SECONDS)
            shown = ray.get(board.read.remote())
            if shown is not None and shown != last:
                progress(*shown)
            last = shown
            if ending:
                return

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()
