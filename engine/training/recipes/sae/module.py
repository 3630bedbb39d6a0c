"""What is trained: an autoencoder's objective with what it needs to know about the run so far.

Legend: B tokens of a batch, D width, F features.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from engine.models import sae
from engine.models.objective import Loss
from engine.models.sae.parallelise import FeatureShard, fired_anywhere
from engine.training.recipe import Batch
from engine.training.recipes.sae.statistics import NO_LIMIT, ActivationStatistics
from engine.training.schedule import ramp

# Terms of the objective that are sums over the dimensions of a token.
SUMMED = ("mse", "aux", "sparsity", "inner")
# Massive activations live in a handful of dimensions (arXiv 2605.31518).
OUTLIER_DIMS = 5
# Thresholds are of size 2, an encoder's elements of size 1/sqrt(D); what drives both is normalised by Adam.
# Without it the number of active features stays at a third of its target for thousands of steps.
THRESHOLD_SPEED = 10.0


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


class MeasuredActivations(nn.Module):
    """What was measured of activations before training, and how they are fed because of it.

    Buffers: mean [D] and scale, which take raw activations to x' = (x - mean) * scale with E||x'||^2 = D;
    norm_limit, above which a token is an outlier; outliers [G], how many there were of each gene; gamma,
    median_norm, outlier_dims, about the activations. G are the model's token ids.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    norm_limit: torch.Tensor
    outliers: torch.Tensor

    def __init__(self, d: int, n_genes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("norm_limit", torch.full((), NO_LIMIT))
        self.register_buffer("outliers", torch.zeros(n_genes, dtype=torch.int64))
        self.register_buffer("statistics_tokens", torch.zeros((), dtype=torch.int64))
        self.register_buffer("gamma", torch.zeros(()))
        self.register_buffer("median_norm", torch.zeros(()))
        self.register_buffer("outlier_dims", torch.zeros(min(OUTLIER_DIMS, d), dtype=torch.int64))

    @torch.no_grad()
    def measure(self, found: ActivationStatistics) -> None:
        """Take over what was measured."""
        self.mean.copy_(found.shift_D)
        self.outliers.copy_(found.outliers_G)
        self.get_buffer("outlier_dims").copy_(
            found.mean_D.abs().topk(min(OUTLIER_DIMS, len(found.mean_D))).indices
        )
        for name in ("scale", "norm_limit", "gamma", "median_norm"):
            self.get_buffer(name).fill_(getattr(found, name))
        self.get_buffer("statistics_tokens").fill_(found.n_tokens)

    def outlying(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Which raw tokens are outliers (B, bool)."""
        norm_B: torch.Tensor = x_BD.norm(dim=1)
        return norm_B > self.norm_limit

    def centred(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Raw activations, or what is left of them, -> x'_BD."""
        return (x_BD - self.mean) * self.scale


class SparseTraining(MeasuredActivations):
    """The objective on raw activations, and what was measured of them.

    Further buffers: gene_means [G, D] of a gene-residual autoencoder, taken off before centring;
    silent_tokens [F], tokens seen by all workers since the feature was last active on any of them. F are the
    features of this worker.
    """

    per_feature = ("silent_tokens",)

    silent_tokens: torch.Tensor
    gene_means: torch.Tensor | None

    def __init__(
        self,
        objective: sae.TrainingModule,
        dead_after_tokens: int,
        knobs: KnobSchedule | None = None,
        *,
        n_genes: int = 0,
        gene_residual: bool = False,
    ) -> None:
        d = objective.sae.d_in
        super().__init__(d, n_genes)
        self.objective = objective
        self.feature_shard = objective.feature_shard
        if objective.sae.config.architecture == "jumprelu":
            objective.sae.threshold.speed = THRESHOLD_SPEED  # type: ignore[attr-defined]
        self.dead_after_tokens = dead_after_tokens
        self.knobs = knobs or KnobSchedule()
        self.register_buffer("gene_means", torch.zeros(n_genes, d) if gene_residual else None)
        self.register_buffer("silent_tokens", torch.zeros(objective.sae.d_sae, dtype=torch.int64))

    @torch.no_grad()
    def measure(self, found: ActivationStatistics) -> None:
        super().measure(found)
        if found.gene_means_GD is not None:
            self.get_buffer("gene_means").copy_(found.gene_means_GD)

    def inputs(self, x_BD: torch.Tensor, gene_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Raw activations -> x'_BD, and which tokens are outliers (B, bool).

        The place of an outlier is taken by another token of the batch, so that all batches are of one size.
        """
        outlier_B = self.outlying(x_BD)
        if (row_B := replacements(outlier_B)) is not None:
            x_BD, gene_B = x_BD[row_B], gene_B[row_B]
        if self.gene_means is not None:
            x_BD = x_BD - self.gene_means[gene_B]
        return self.centred(x_BD), outlier_B

    def forward(self, batch: Batch) -> Loss:
        """FVU plus the architecture's penalties, in units of the activations' variance.

        Batch: x_BD, raw; gene_B, token ids; step, the optimiser step it belongs to. Metrics: fvu, l0, mse,
        aux, sparsity, dead_fraction, outlier_fraction, k where it is a number of features; Matryoshka adds
        inner, BatchTopK and it threshold.
        """
        x_BD, outlier_B = self.inputs(batch["x_BD"], batch["gene_B"])
        dead_F = self.silent_tokens >= self.dead_after_tokens
        self.knobs.apply(self.objective, int(batch["step"]))
        sparse = self.objective(x_BD, dead_F)
        count_silence(self.silent_tokens, sparse.fired_F, len(x_BD), self.feature_shard)
        metrics = metrics_per_variance(self.objective, sparse.metrics, dead_F, outlier_B)
        return Loss(sparse.loss * (1 / self.objective.sae.d_in), metrics)


def replacements(outlier_B: torch.Tensor) -> torch.Tensor | None:
    """The token that takes each place of a batch: others those of outliers. None where all stay."""
    if not outlier_B.any() or outlier_B.all():
        return None
    kept = torch.nonzero(~outlier_B)[:, 0]
    row_B = torch.arange(len(outlier_B), device=outlier_B.device)
    n_out = len(outlier_B) - len(kept)
    row_B[outlier_B] = kept[torch.arange(n_out, device=outlier_B.device) % len(kept)]
    return row_B


@torch.no_grad()
def count_silence(silent_F: torch.Tensor, fired_F: torch.Tensor, tokens: int, shard: FeatureShard) -> None:
    """A feature is silent only if it is so on every worker; all workers then count alike."""
    silent_F += tokens * shard.batch_world
    silent_F[fired_anywhere(fired_F, shard)] = 0


def metrics_per_variance(
    objective: sae.TrainingModule,
    found: Mapping[str, torch.Tensor],
    dead_F: torch.Tensor,
    outlier_B: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """The objective's metrics as fractions of the variance, comparable across widths and hooks.

    What is reconstructed has E||x'||^2 = its width by construction.
    """
    per_variance = 1 / objective.sae.config.reconstructs
    metrics = {name: value * per_variance if name in SUMMED else value for name, value in found.items()}
    metrics["dead_fraction"] = dead_F.float().mean()
    metrics["outlier_fraction"] = outlier_B.float().mean()
    if objective.k:
        metrics["k"] = torch.tensor(objective.k, device=dead_F.device)
    return metrics
