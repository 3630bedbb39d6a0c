"""What is trained: an autoencoder's objective with what it needs to know about the run so far.

Legend: B tokens of a batch, D width, F features.
"""

from dataclasses import dataclass

import torch
from torch import nn

from engine.models import sae
from engine.models.objective import Loss
from engine.models.sae.parallelise import fired_anywhere
from engine.training.recipe import Batch
from engine.training.schedule import ramp

# Terms of the objective that are sums over the dimensions of a token.
SUMMED = ("mse", "aux", "sparsity", "inner")


@dataclass(frozen=True, kw_only=True)
class KnobSchedule:
    """What changes in the first steps: k comes down from a quarter of the width, the penalty grows from 0."""

    anneal_steps: int = 0
    """Steps over which k comes down; 0 for none."""
    sparsity_warmup_steps: int = 0
    """Steps over which the sparsity penalty grows."""

    def apply(self, objective: sae.TrainingModule, step: int) -> None:
        """Sets the objective's knobs for optimiser step `step`, as a plain function of it."""
        config, options = objective.sae.config, objective.options
        if config.k is not None:
            start = max(config.d_in / 4, config.k)
            k = config.k + (start - config.k) * (1 - ramp(step, self.anneal_steps))
            objective.k = float(min(round(k), objective.n_features)) if k > config.k else float(config.k)
        objective.sparsity_coefficient = options.sparsity_coefficient * ramp(
            step + 1, self.sparsity_warmup_steps
        )


class SparseTraining(nn.Module):
    """The objective on raw activations.

    Buffers: mean [D] and scale, which take raw activations to x' = (x - mean) * scale with E||x'||^2 = D;
    silent_tokens [F], tokens seen by all workers since the feature was last active on any of them. F are the
    features of this worker.
    """

    per_feature = ("silent_tokens",)

    mean: torch.Tensor
    scale: torch.Tensor
    silent_tokens: torch.Tensor

    def __init__(
        self, objective: sae.TrainingModule, dead_after_tokens: int, knobs: KnobSchedule | None = None
    ) -> None:
        super().__init__()
        self.objective = objective
        self.feature_shard = objective.feature_shard
        self.dead_after_tokens = dead_after_tokens
        self.knobs = knobs or KnobSchedule()
        self.register_buffer("mean", torch.zeros(objective.sae.d_in))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("silent_tokens", torch.zeros(objective.sae.d_sae, dtype=torch.int64))

    def forward(self, batch: Batch) -> Loss:
        """FVU plus the architecture's penalties, in units of the activations' variance.

        Batch: x_BD, raw; step, the optimiser step it belongs to. Metrics: fvu, l0, mse, aux, sparsity,
        dead_fraction, k where it is a number of features; Matryoshka adds inner, BatchTopK and it threshold.
        """
        x_BD = (batch["x_BD"] - self.mean) * self.scale
        dead_F = self.silent_tokens >= self.dead_after_tokens
        self.knobs.apply(self.objective, int(batch["step"]))
        sparse = self.objective(x_BD, dead_F)
        self._count_silence(sparse.fired_F, len(x_BD))
        # E||x'||^2 is D by construction: a fraction of the variance, comparable across widths and hooks.
        per_variance = 1 / self.objective.sae.d_in
        metrics = {
            name: value * per_variance if name in SUMMED else value for name, value in sparse.metrics.items()
        }
        metrics["dead_fraction"] = dead_F.float().mean()
        if self.objective.k:
            metrics["k"] = torch.tensor(self.objective.k, device=x_BD.device)
        return Loss(sparse.loss * per_variance, metrics)

    @torch.no_grad()
    def _count_silence(self, fired_F: torch.Tensor, tokens: int) -> None:
        """A feature is silent only if it is so on every worker; all workers then count alike."""
        self.silent_tokens += tokens * self.feature_shard.batch_world
        self.silent_tokens[fired_anywhere(fired_F, self.feature_shard)] = 0
