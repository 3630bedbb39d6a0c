"""Small perturbation models whose every weight is random, so that nothing is zero by initialisation."""

from __future__ import annotations

from typing import Any

import torch

from engine.models import bimamba

GENES = [f"G{i}" for i in range(70)]
POSITIONS = {
    "gene": ["G3", "G5", "G7"],
    "chromosome": ["chrX", "2", "2"],
    "start": [5_000_000, 70_000_000, 7_000_000],
}


def small_config(**options: Any) -> bimamba.PerturbationConfig:
    sizes: dict[str, Any] = {"n_genes": len(GENES), "d_model": 16, "n_layers": 2, "d_state": 8}
    sizes |= {"headdim": 8, "condition_dim": 12, "gene_identity_dim": 6, "n_targets": 2}
    return bimamba.PerturbationConfig(**(sizes | options))


def small_model(**options: Any) -> bimamba.PerturbationModel:
    config = small_config(**options)
    further = ["T0", "T1"][: config.n_targets]
    return shaken(bimamba.create(config, GENES, targets=further, positions=POSITIONS))


@torch.no_grad()
def shaken(model: Any) -> Any:
    """Noise on every weight."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def basal(n_conditions: int) -> torch.Tensor:
    return torch.rand(n_conditions, len(GENES), generator=torch.Generator().manual_seed(5)) * 3
