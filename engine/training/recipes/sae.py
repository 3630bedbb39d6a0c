"""Training a TopK sparse autoencoder on activations, and exporting it as a SAELens directory.

Legend: B tokens of a batch, D width, F features.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from engine.models import sae
from engine.models.objective import Loss
from engine.training.activation_sources import ActivationSource
from engine.training.recipe import Batch, Share

# Enough for a mean and a scale to three digits at any width we meet (specs/sae.md section 5).
STATISTICS_TOKENS = 200_000


class SparseTraining(nn.Module):
    """The objective with what it needs to know about the run so far.

    Buffers: mean [D] and scale, which take raw activations to x' = (x - mean) * scale with E||x'||^2 = D;
    silent_tokens [F], tokens seen by all workers since the feature was last active on any of them.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    silent_tokens: torch.Tensor

    def __init__(self, objective: sae.TrainingModule, dead_after_tokens: int) -> None:
        super().__init__()
        self.objective = objective
        self.dead_after_tokens = dead_after_tokens
        self.register_buffer("mean", torch.zeros(objective.sae.d_in))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("silent_tokens", torch.zeros(objective.sae.d_sae, dtype=torch.int64))

    def forward(self, batch: Batch) -> Loss:
        """FVU plus AuxK, in units of the activations' variance. Metrics: fvu, l0, mse, aux, dead_fraction."""
        x_BD = (batch["x_BD"] - self.mean) * self.scale
        dead_F = self.silent_tokens >= self.dead_after_tokens
        sparse = self.objective(x_BD, dead_F)
        self._count_silence(sparse.fired_F, len(x_BD))
        # E||x'||^2 is D by construction: a fraction of the variance, comparable across widths and hooks.
        per_variance = 1 / self.objective.sae.d_in
        metrics = {**sparse.metrics, "dead_fraction": dead_F.float().mean()}
        metrics |= {name: metrics[name] * per_variance for name in ("mse", "aux")}
        return Loss(sparse.loss * per_variance, metrics)

    @torch.no_grad()
    def _count_silence(self, fired_F: torch.Tensor, tokens: int) -> None:
        """A feature is silent only if it is so on every worker; all workers then count alike."""
        fired = fired_F.to(torch.uint8)
        world = 1
        if dist.is_initialized():
            dist.all_reduce(fired, op=dist.ReduceOp.MAX)
            world = dist.get_world_size()
        self.silent_tokens += tokens * world
        self.silent_tokens[fired.bool()] = 0


@dataclass(frozen=True, kw_only=True)
class SparseRecipe:
    """A TopK autoencoder of `width` features, `k` of them active per token."""

    source: ActivationSource
    width: int
    k: int
    dead_after_tokens: int
    """Tokens without activity after which AuxK tries to revive a feature."""
    aux_coefficient: float = 1.0

    @property
    def actors(self) -> int | None:
        return self.source.actors

    def lineage(self) -> dict[str, Any]:
        return {
            **self.source.lineage(),
            "architecture": "topk",
            "width": self.width,
            "k": self.k,
            "dead_after_tokens": self.dead_after_tokens,
            "aux_coefficient": self.aux_coefficient,
        }

    def build(self, seed: int) -> SparseTraining:
        autoencoder = sae.create(self.source.width, self.width, self.k, seed=seed)
        options = sae.ObjectiveOptions(aux_coefficient=self.aux_coefficient)
        return SparseTraining(sae.TrainingModule(autoencoder, options), self.dead_after_tokens)

    def prepare(self, module: nn.Module, share: Share, device: torch.device) -> None:
        """Mean and scale of the activations, from at least 200,000 tokens drawn as for training."""
        if not isinstance(module, SparseTraining):
            raise TypeError(f"expected the module that build() made, got {type(module).__name__}")
        mean_D, scale = activation_statistics(self.source, share, device)
        module.mean.copy_(mean_D)
        module.scale.fill_(scale)

    def batches(
        self, module: nn.Module, start_step: int, share: Share, device: torch.device
    ) -> Iterator[Batch]:
        with closing(self.source.batches(start_step, share, device)) as stream:
            for x_BD in stream:
                yield {"x_BD": x_BD}

    def tokens(self, batch: Batch) -> int:
        return len(batch["x_BD"])

    def export(self, state: Mapping[str, torch.Tensor], directory: Path) -> None:
        """A SAELens directory that takes raw activations: mean, scale and decoder norms are folded in."""
        module = self.build(seed=0)
        module.load_state_dict(dict(state))
        autoencoder = module.objective.sae
        dead = int((module.silent_tokens >= self.dead_after_tokens).sum())
        autoencoder.config.metadata.update(
            {
                **self.source.provenance(),
                "training_architecture": "topk",
                "num_dead_features": dead,
            }
        )
        sae.save(sae.fold_input_scaling(autoencoder, module.mean, float(module.scale)), directory)


def activation_statistics(
    source: ActivationSource, share: Share, device: torch.device
) -> tuple[torch.Tensor, float]:
    """Mean of the activations [D] and the factor that brings their centred RMS norm to sqrt(D). Collective.

    Centring is not optional: with a mean ten times the spread, 99 % of the features of a TopK autoencoder
    with a zero bias never fire (specs/sae.md section 5). Sums are float64: the mean may dwarf the spread.
    """
    total_D = torch.zeros(source.width, dtype=torch.float64, device=device)
    squares = torch.zeros((), dtype=torch.float64, device=device)
    n_batches = math.ceil(STATISTICS_TOKENS / (share.micro_batch * share.world))
    stream = source.batches(0, share, device)
    for _ in range(n_batches):
        x_BD = next(stream).double()
        total_D += x_BD.sum(0)
        squares += x_BD.square().sum()
    n_tokens = n_batches * share.micro_batch * share.world
    if dist.is_initialized():
        dist.all_reduce(total_D)
        dist.all_reduce(squares)
    # Not before all workers have their sums: the first one's stream may be the source of the others'.
    stream.close()
    mean_D = total_D / n_tokens
    variance = float(squares / n_tokens - mean_D.square().sum())
    scale = math.sqrt(source.width / variance) if variance > 0 else 1.0
    return mean_D.float().cpu(), scale
