"""Models of different seeds trained side by side: their spread is part of a prediction's uncertainty."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.models import bimamba
from engine.models.objective import Loss


class Ensemble(nn.Module):
    """Members see the same batches; each has its own weights, dropout and gradient."""

    def __init__(self, models: Sequence[bimamba.PerturbationModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(bimamba.TrainingModule(model) for model in models)

    @property
    def models(self) -> list[bimamba.PerturbationModel]:
        return [member.model for member in self.members]  # type: ignore[misc]

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """The mean of the members' losses and metrics."""
        losses = [member(batch) for member in self.members]
        metrics = {
            name: torch.stack([loss.metrics[name] for loss in losses]).mean() for name in losses[0].metrics
        }
        return Loss(torch.stack([loss.loss for loss in losses]).mean(), metrics)
