"""The means beside an autoencoder that was trained on gene residuals: it takes x minus the mean of x's gene.

Legend: B tokens of a batch, G token ids of the encoder's vocabulary, D width.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.models.errors import ModelError

FILE, NAME = "gene_means.safetensors", "gene_means"


def save_gene_means(means_GD: Tensor, directory: Path | str) -> None:
    """Writes the means, in raw activation units and in the order of token ids."""
    save_file({NAME: means_GD.contiguous()}, Path(directory) / FILE)


def load_gene_means(directory: Path | str) -> Tensor | None:
    """means_GD, or None beside an autoencoder that takes activations as they are. Raises ModelError."""
    path = Path(directory) / FILE
    if not path.exists():
        return None
    weights: dict[str, Tensor] = load_file(path)
    if NAME not in weights or weights[NAME].ndim != 2:
        raise ModelError(f"{path}: expected one matrix {NAME} [token ids, width], found {sorted(weights)}")
    return weights[NAME]


def without_gene_means(x_BD: Tensor, gene_B: Tensor, means_GD: Tensor) -> Tensor:
    """What such an autoencoder takes: activations less the mean of each token's gene (gene_B, token ids)."""
    return x_BD - means_GD.to(x_BD.device)[gene_B]
