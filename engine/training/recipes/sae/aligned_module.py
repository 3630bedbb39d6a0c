"""What is trained on the same tokens at several places: a crosscoder of all, a transcoder between two.

Legend: B tokens of a batch, D width of all places together, F features.
"""

from collections.abc import Sequence

import torch
from torch import nn

from engine.models import sae
from engine.models.objective import Loss
from engine.training.aligned_activations import Place
from engine.training.recipe import Batch
from engine.training.recipes.sae.module import (
    KnobSchedule,
    MeasuredActivations,
    count_silence,
    metrics_per_variance,
    replacements,
)
from engine.training.recipes.sae.statistics import ActivationStatistics


class AlignedTraining(nn.Module):
    """The objective on raw activations of several places, each centred and scaled by what was measured of it.

    A transcoder (an autoencoder with d_out) reads the first of two places and reconstructs the second; any
    other autoencoder reads and reconstructs all of them. Buffer silent_tokens [F]: as in `SparseTraining`.
    """

    per_feature = ("silent_tokens",)

    silent_tokens: torch.Tensor

    def __init__(
        self,
        objective: sae.TrainingModule,
        places: Sequence[Place],
        dead_after_tokens: int,
        knobs: KnobSchedule,
        n_genes: int,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.feature_shard = objective.feature_shard
        self.widths = [place.width for place in places]
        self.labels = [label(number, place) for number, place in enumerate(places)]
        self.dead_after_tokens, self.knobs = dead_after_tokens, knobs
        self.places = nn.ModuleList(MeasuredActivations(width, n_genes) for width in self.widths)
        self.register_buffer("silent_tokens", torch.zeros(objective.sae.d_sae, dtype=torch.int64))

    def measure(self, found: Sequence[ActivationStatistics]) -> None:
        """Take over what was measured of each place."""
        for place, statistics in zip(self.places, found, strict=True):
            place.measure(statistics)  # type: ignore[operator]

    def inputs(self, x_BD: torch.Tensor, gene_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Raw activations -> x'_BD of all places, and which tokens are outliers in any of them (B, bool)."""
        parts = self.split(x_BD)
        outlying = [place.outlying(part) for place, part in zip(self.places, parts, strict=True)]  # type: ignore[operator]
        outlier_B = torch.stack(outlying).any(0)
        centred = [place.centred(part) for place, part in zip(self.places, parts, strict=True)]  # type: ignore[operator]
        x_BD = torch.cat(centred, dim=1)
        row_B = replacements(outlier_B)
        return (x_BD if row_B is None else x_BD[row_B]), outlier_B

    def split(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The places of activations side by side."""
        return torch.split(x_BD, self.widths, dim=1)

    def fed(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What of x'_BD the autoencoder reads, and what it reconstructs of it where that is another place."""
        if self.objective.sae.config.d_out is None:
            return x_BD, None
        source_BD, target_BO = self.split(x_BD)
        return source_BD, target_BO

    def forward(self, batch: Batch) -> Loss:
        """As `SparseTraining.forward`; a crosscoder's metrics add fvu_<number>_<hook> of every place."""
        x_BD, outlier_B = self.inputs(batch["x_BD"], batch["gene_B"])
        source_BD, target_BO = self.fed(x_BD)
        dead_F = self.silent_tokens >= self.dead_after_tokens
        self.knobs.apply(self.objective, int(batch["step"]))
        sparse = self.objective(source_BD, dead_F, target_BO)
        count_silence(self.silent_tokens, sparse.fired_F, len(x_BD), self.feature_shard)
        metrics = metrics_per_variance(self.objective, sparse.metrics, dead_F, outlier_B)
        if target_BO is None:
            metrics |= self._unexplained(source_BD, sparse.r_BO)
        return Loss(sparse.loss * (1 / self.objective.sae.config.reconstructs), metrics)

    @torch.no_grad()
    def _unexplained(self, x_BD: torch.Tensor, r_BD: torch.Tensor) -> dict[str, torch.Tensor]:
        found = {}
        for name, part_BD, rebuilt_BD in zip(self.labels, self.split(x_BD), self.split(r_BD), strict=True):
            spread = (part_BD - part_BD.mean(0)).square().sum().clamp(min=1e-30)
            found[f"fvu_{name}"] = (part_BD - rebuilt_BD).square().sum() / spread
        return found


def label(number: int, place: Place) -> str:
    """Short name of a place: 0_resid_post_2."""
    return f"{number}_{place.name.split()[-1]}"
