"""The training loop every recipe runs in, on one of `world` processes. Knows DeepSpeed but not Ray."""

import random
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from engine.training import feed
from engine.training import output as outputs
from engine.training.checkpoint import Checkpoints, Committed
from engine.training.fragments import hash_of_frozen
from engine.training.judging import Judge
from engine.training.metrics import MetricsTable
from engine.training.options import TrainingOptions
from engine.training.recipe import Batch, Recipe, Share
from engine.training.room import Room
from engine.training.schedule import learning_rate
from engine.training.sharding import Groups, Worker, optimiser_step, shard
from storage.locations import Location

Progress = Callable[[int, int, str], None]
"""`(done, total, unit)`."""
OnCheckpoint = Callable[[dict[str, float], Committed], None]


class Run:
    """One model in training, on one worker: its engine, curve and checkpoints, and the step that is next.

    Begins at the newest checkpoint under `output`, or is built and prepared. Collective, as its methods are.
    """

    def __init__(
        self,
        recipe: Recipe,
        options: TrainingOptions,
        output: Location,
        worker: Worker,
        room: Room | None = None,
    ) -> None:
        self.recipe, self.options, self.output, self.worker = recipe, options, output, worker
        self.groups = Groups.of(worker, options.feature_parallel)
        self.share = Share(
            self.groups.batch_rank,
            self.groups.shard.batch_world,
            options.batch,
            options.accumulation,
            options.seed,
            room,
            self.groups.shard.batch_group,
        )
        self.checkpoints = Checkpoints(output, options.keep)
        newest = worker.agree(self.checkpoints.newest() if worker.leads else None)
        self.engine, self.frozen = _engine(
            recipe, options, self.share, worker, self.groups, self.checkpoints, newest
        )
        self.next_step = newest.step if newest else 0
        self.table = MetricsTable(output, self.next_step) if worker.leads else None
        self.judge = Judge.of(recipe, output, self.next_step, worker)

    @property
    def is_over(self) -> bool:
        """Whether the last step is done, or held-out examples say that more would not help."""
        return self.next_step >= self.options.steps or (self.judge is not None and self.judge.has_enough)

    def batches(self) -> Iterator[Batch]:
        """Its micro-batches from the next step on."""
        return feed.batches(
            self.recipe, self.engine.module, self.next_step, self.share, self.worker, self.groups.shard
        )

    def step(self, stream: Iterator[Batch]) -> tuple[dict[str, float], Committed] | None:
        """The next step, on the next micro-batches of `stream`; metrics and checkpoint where one was due."""
        values = _step(
            self.engine, self.recipe, self.options, self.share, self.groups, stream, self.next_step
        )
        step, self.next_step = self.next_step, self.next_step + 1
        last = self.next_step == self.options.steps
        judged = self.judge is not None and (last or self.judge.is_due(self.next_step))
        if self.judge is not None and judged:
            values |= self.judge.judge(self.engine.module, self.share, self.engine.device, self.next_step)
        if self.table is not None:
            self.table.add(step, values)
        if not (last or judged) and self.next_step % self.options.checkpoint_every:
            return None
        # The table first: rows beyond the newest checkpoint are dropped on resume, missing ones are not
        # made up.
        if self.table is not None:
            self.table.write()
        best = self.judge.best_step if self.judge else None
        committed = self.checkpoints.save(
            self.engine, self.worker, self.groups, self.next_step, self.frozen, best
        )
        return {"step": self.next_step, "loss": float(values["loss"])}, committed

    def finish(self) -> None:
        """Publish the model directory, and create the record that says that the run is done."""
        if self.table is not None:
            self.table.close()
        best = self.judge.best_step if self.judge else None
        _finish(self.recipe, self.options, self.output, self.worker, self.checkpoints, best)


def train(
    recipe: Recipe,
    options: TrainingOptions,
    output: Location,
    worker: Worker,
    progress: Progress,
    on_checkpoint: OnCheckpoint,
    room: Room | None = None,
) -> None:
    """Train from the newest checkpoint under `output`, or from the start, to the end; publish the model.

    Collective over all workers. Callbacks: `progress` on rank 0 after every step, `on_checkpoint` on every
    worker after each committed checkpoint. `room`: what Ray holds for the workers, on Ray.
    """
    run = Run(recipe, options, output, worker, room)
    stream = run.batches()
    while not run.is_over:
        checkpoint = run.step(stream)
        if worker.leads:
            progress(run.next_step, options.steps, "steps")
        if checkpoint is not None:
            on_checkpoint(*checkpoint)
    del stream  # encoders that fed it end here, not only when the model is published
    run.finish()


def _engine(
    recipe: Recipe,
    options: TrainingOptions,
    share: Share,
    worker: Worker,
    groups: Groups,
    checkpoints: Checkpoints,
    newest: Committed | None,
) -> tuple[Any, str]:
    """The sharded module: from the checkpoint, or built and prepared for step 0. Also the hash of its weights
    that do not learn, which are as they were built.
    """
    seed_everything(options.seed)
    module = recipe.build(options.seed, groups.shard).train()
    if newest is None:
        feed.prepare(recipe, module, share, worker, groups.shard)
    frozen = hash_of_frozen(module)
    engine = shard(module, options, share, groups)
    if newest is not None:
        checkpoints.load(engine, newest, frozen)
    return engine, frozen


def _step(
    engine: Any,
    recipe: Recipe,
    options: TrainingOptions,
    share: Share,
    groups: Groups,
    stream: Iterator[Batch],
    step: int,
) -> dict[str, torch.Tensor | float]:
    """One optimiser step; its metrics, averaged over micro-batches and workers."""
    started = time.perf_counter()
    rate = learning_rate(step, options)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate * group["speed"] * (step >= group["learns_from"])
    # Dropout must not depend on how many steps this process has done before: a resumed run draws the same.
    seed_everything(options.seed, step, share.rank)
    sums: dict[str, torch.Tensor] = {}
    norm, tokens = torch.tensor(float("nan")), 0
    for _ in range(share.accumulation):
        batch = next(stream)
        tokens += recipe.tokens(batch) if groups.shard.rank == 0 else 0
        outcome = engine(batch)
        engine.backward(outcome.loss)
        norm = optimiser_step(engine, groups)
        for name, value in {"loss": outcome.loss, **outcome.metrics}.items():
            sums[name] = sums.get(name, 0) + value.detach().float()
    means = _over_workers(sums, tokens, share.accumulation, engine.device)
    seconds = time.perf_counter() - started
    return {
        **means,
        "learning_rate": rate,
        "gradient_norm": norm,
        "seconds": seconds,
        "tokens_per_second": means["tokens"] / seconds,
    }


def _over_workers(
    sums: Mapping[str, torch.Tensor], tokens: int, accumulation: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Mean of each metric over micro-batches and workers, and the sum of tokens, in one all-reduce."""
    names = sorted(sums)
    values = [sums[name] / (accumulation * dist.get_world_size()) for name in names]
    whole = torch.stack([*values, torch.tensor(float(tokens), device=device)])
    dist.all_reduce(whole)
    return dict(zip([*names, "tokens"], whole, strict=True))


def _finish(
    recipe: Recipe,
    options: TrainingOptions,
    output: Location,
    worker: Worker,
    checkpoints: Checkpoints,
    best: int | None,
) -> None:
    """Publish the model directory from the best or last checkpoint, and create the record of the end."""
    peaks: list[Any] = [None] * worker.world
    dist.all_gather_object(peaks, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    last = checkpoints.newest() if worker.leads else None
    if last is not None:
        published = last if best is None else checkpoints.at(best)
        outputs.publish_model(recipe, checkpoints.stored(published), output, options)
        outputs.record_end(
            output,
            recipe,
            options,
            steps=last.step,
            published_step=published.step,
            peak_memory_bytes=max(peaks),
        )
    dist.barrier()


def seed_everything(*entropy: int) -> None:
    """Seed torch, NumPy and random of this process from any number of integers."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
