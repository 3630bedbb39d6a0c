"""What a recipe has to answer so that the one training loop can train it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import nn

from engine.models.sae.parallelise import ALONE, FeatureShard
from engine.training.options import TrainingOptions
from engine.training.room import Room

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Share:
    """The part of every global batch that one worker computes.

    Examples form one endless stream that depends on the seed alone; step `s` takes positions
    `[s * batch, (s + 1) * batch)` of it. Workers and micro-batches only cut that range into pieces, so a run
    continued on another number of workers sees the same examples in the same steps.

    Workers that share the features of one autoencoder have the same share; the first of them asks the recipe
    for its batches and hands them to the others, so `rank` and `world` count groups of workers.
    """

    rank: int
    world: int
    batch: int
    accumulation: int
    seed: int
    room: Room | None = None
    """What Ray holds for the group and its encoders; None in a process that trains by itself."""
    group: dist.ProcessGroup | None = None
    """The processes that ask a recipe for batches, one a share: whom `prepare` and `batches` may talk to.
    None: all there are."""

    @property
    def micro_batch(self) -> int:
        """Examples of one forward pass."""
        return self.batch // (self.world * self.accumulation)

    def ranges(self, start_step: int) -> Iterator[tuple[int, int]]:
        """Positions `[start, stop)` of this worker's micro-batches in the stream, from `start_step` on."""
        size, step = self.micro_batch, start_step
        while True:
            for part in range(self.accumulation):
                start = step * self.batch + (part * self.world + self.rank) * size
                yield start, start + size
            step += 1


class Loss(Protocol):
    """What a training module returns."""

    @property
    def loss(self) -> torch.Tensor:
        """Scalar to minimise: a mean over the examples of the micro-batch."""

    @property
    def metrics(self) -> Mapping[str, torch.Tensor]:
        """Named scalars to record; the same names in every step and on every worker."""


class Recipe(Protocol):
    """A picklable dataclass that travels to every worker: paths and numbers, no weights, no open files."""

    @property
    def actors(self) -> int | None:
        """Encoder actors that make its examples beside the workers: 0 for none, None for as many as fit."""

    def lineage(self) -> dict[str, Any]:
        """Everything of the recipe that changes the trained weights, as plain JSON values."""

    def build(self, seed: int, shard: FeatureShard = ALONE) -> nn.Module:
        """The training module, in float32 on the CPU, the same on every worker; `forward(batch) -> Loss`.

        State that is not trained (counters, statistics) lives in its buffers: they are part of a checkpoint.
        Weights that require no gradient are none: a run that goes on has those that are built here.
        `shard`: the features of this worker, whose numbers are those they have in the whole model. Modules
        that hold some rows only of tensors say so: `feature_shard`, and `per_feature`, the names of their own
        weights and buffers that are cut along the first axis.
        """

    def prepare(self, module: nn.Module, share: Share, device: torch.device) -> None:
        """Called once before step 0, on the first worker of every share with the same result.

        Sets what depends on the examples, in weights and buffers that every worker has whole.
        """

    def batches(
        self, module: nn.Module, start_step: int, share: Share, device: torch.device
    ) -> Iterator[Batch]:
        """This worker's micro-batches from `start_step` on, without end; a function of seed, step and share.

        `module` is the training module, for what belongs to the model but is no weight (its tokeniser).
        """

    def tokens(self, batch: Batch) -> int:
        """Tokens of one micro-batch, for the throughput."""

    def export(self, state: Mapping[str, torch.Tensor], directory: Path, options: TrainingOptions) -> None:
        """Write the model directory from the whole float32 state of the training module (CPU tensors), less
        its weights that do not learn: `stored_state.fill_learnt` puts it into a module built anew.

        `options`: of the run whose end it is. For one process, which may read further examples.
        """


@runtime_checkable
class Judged(Protocol):
    """What a recipe answers beside `Recipe` when held-out examples decide which of its checkpoints is best.

    A judgement is made every `judge_every` steps and after the last one, and a checkpoint with it. The run
    ends early after `patience` judgements without a better one (0: never), and the best checkpoint is the
    model that is published.
    """

    @property
    def judge_every(self) -> int:
        """Steps between judgements."""

    @property
    def patience(self) -> int:
        """Judgements without a better one after which the run ends."""

    def judge(self, module: nn.Module, share: Share, device: torch.device) -> dict[str, float]:
        """Measures of the module as it is, among them SCORE (higher is better); the same on every worker.

        Collective. May settle buffers that training does not depend on; leaves the module in training mode.
        """


SCORE = "held_out_score"
