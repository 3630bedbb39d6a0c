"""Sizes of a model that does not exist yet."""

from __future__ import annotations

import torch

from engine.models.bimamba.config import PerturbationConfig
from engine.models.bimamba.model import PerturbationModel


def parameter_count(config: PerturbationConfig) -> int:
    """Parameters of a model, without making their numbers."""
    with torch.device("meta"):
        model = PerturbationModel(config)
    return sum(parameter.numel() for parameter in model.parameters())
