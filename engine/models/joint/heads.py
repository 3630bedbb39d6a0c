"""Projection heads: a tower's features -> the common space. The model brings embeddings to length one.

Legend: B cells or texts of a batch, D width of the features, U width of the common space.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SHORTCUT_NOISE = 0.01  # CLIP-Lite's initialisation of the shortcut, around the identity


class ResidualHead(nn.Module):
    """CellWhisperer's head (CLIP-Lite's block): a two-layer branch beside a linear shortcut, then LayerNorm.

    In training mode its BatchNorm looks at the whole batch: features of all chunks and workers must come
    together (`joint.objective` sees to that).
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width_in, width_out, bias=False)
        self.batch_norm = nn.BatchNorm1d(width_out)
        self.mix = nn.Linear(width_out, width_out)
        self.shortcut = nn.Linear(width_in, width_out)
        self.norm = nn.LayerNorm(width_out)
        nn.init.uniform_(self.shortcut.weight, -SHORTCUT_NOISE, SHORTCUT_NOISE)
        with torch.no_grad():
            self.shortcut.weight.fill_diagonal_(1.0)

    def forward(self, f_BD: Tensor) -> Tensor:
        branch_BU = self.mix(torch.relu(self.batch_norm(self.expand(f_BD))))
        h_BU: Tensor = self.norm(branch_BU + self.shortcut(f_BD))
        return h_BU


class SphereHead(nn.Module):
    """LingoCell's head: one linear map and a LayerNorm; no statistics of a batch."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.project = nn.Linear(width_in, width_out)
        self.norm = nn.LayerNorm(width_out)

    def forward(self, f_BD: Tensor) -> Tensor:
        h_BU: Tensor = self.norm(self.project(f_BD))
        return h_BU


def head(kind: str, width_in: int, width_out: int) -> nn.Module:
    """A fresh head of a kind that JointConfig knows."""
    return (ResidualHead if kind == "residual" else SphereHead)(width_in, width_out)
