"""How a model is trained: everything the loop needs that is not the model or its examples."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from storage.errors import InputError

Decay = Literal["cosine", "linear", "constant"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of the loop. Raises InputError, naming the option, when they cannot be meant."""

    steps: int
    """Optimiser steps of the whole run."""
    batch: int
    """Examples of one optimiser step over all workers; cells for encoders, tokens for sparse autoencoders."""
    accumulation: int = 1
    """Micro-batches one worker adds up before a step: more steps of less memory."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    decay: Decay = "cosine"
    """Shape of the learning rate after the warm-up."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0."""
    decay_from: float = 0.0
    """Share of the run after which the decay begins (0.8: the last fifth)."""
    final_fraction: float = 0.0
    """Share of the peak learning rate that is left at the last step."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; vectors (biases, norms) are never decayed."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates of the first and second moment."""
    epsilon: float = 1e-8
    """Added to the denominator of Adam."""
    clip: float = 1.0
    """Largest norm of the whole gradient; 0 = do not clip."""
    zero: Literal[0, 1, 2, 3] = 0
    """ZeRO stage: what workers share out. 0 nothing, 1 optimiser state, 2 also gradients, 3 also weights."""
    workers: int = 1
    """Training processes; each has a GPU where the cluster has any. 0: train in this process, without Ray."""
    feature_parallel: int = 1
    """Workers that share the features of one autoencoder; they all see the same tokens."""
    cpus_per_worker: int = 1
    """CPU cores (and threads) of one worker."""
    precision: Precision = "fp32"
    """bf16: matrix products in bfloat16, weights and optimiser in float32."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the last step always makes one."""
    keep: int = 2
    """Newest checkpoints to keep."""
    seed: int = 0
    """Seed of initial weights, order of examples, masks and dropout."""
    max_failures: int = 3
    """Worker losses after which the job gives up (it can still be resumed)."""

    def __post_init__(self) -> None:
        self._at_least(1, "steps", "batch", "accumulation", "cpus_per_worker", "checkpoint_every", "keep")
        self._at_least(1, "feature_parallel")
        self._at_least(0, "workers", "warmup_steps", "weight_decay", "clip", "max_failures")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"learning rate is {self.learning_rate}; it must be a positive number.")
        if not 0 <= self.decay_from < 1:
            raise InputError(f"decay-from is {self.decay_from}; it is a share of the run, 0 to below 1.")
        if not 0 <= self.final_fraction <= 1:
            raise InputError(f"final-fraction is {self.final_fraction}; it is a share of the peak, 0 to 1.")
        if self.zero not in (0, 1, 2, 3):
            raise InputError(f"zero is {self.zero}; ZeRO stages are 0, 1, 2 and 3.")
        if self.warmup_steps >= self.steps and self.steps > 1:
            raise InputError(f"warm-up ({self.warmup_steps} steps) leaves nothing of {self.steps} steps.")
        if self.world % self.feature_parallel:
            raise InputError(
                f"feature-parallel is {self.feature_parallel}; it must divide the {self.world} workers."
            )
        parts = self.data_parallel * self.accumulation
        if self.batch % parts:
            raise InputError(
                f"a batch of {self.batch} cannot be shared evenly by {self.data_parallel} workers x "
                f"{self.accumulation} micro-batches; use a multiple of {parts}."
            )

    @property
    def world(self) -> int:
        """Number of training processes."""
        return max(self.workers, 1)

    @property
    def data_parallel(self) -> int:
        """Groups of workers, each of which holds the whole model and computes its share of a batch."""
        return self.world // self.feature_parallel

    def lineage(self) -> dict[str, Any]:
        """The options that change the trained weights: what a resumed run must have in common with the first.

        Workers, feature groups, ZeRO stage, accumulation and what is kept on disk only change where and how
        the same numbers are computed, so they may differ between a run and its continuation.
        """
        free = {
            "zero",
            "workers",
            "feature_parallel",
            "cpus_per_worker",
            "accumulation",
            "checkpoint_every",
            "keep",
            "max_failures",
        }
        return {name: value for name, value in asdict(self).items() if name not in free}

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise InputError(f"{flag} is {getattr(self, name)}; it must be at least {least}.")
