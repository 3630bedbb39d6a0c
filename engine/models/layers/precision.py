"""Layers whose weights may be resident in bfloat16 while the residual stream around them stays float32.

Under fp32 (and under torch.autocast) they are exactly `nn.Linear` and `nn.LayerNorm`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.errors import ModelError
from engine.models.layers.linear import linear


class Linear(nn.Linear):
    """Computes in the dtype of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.to(self.weight.dtype), self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """Computes in the dtype of its weight: float32 unless somebody casts the whole module."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.bias, self.eps)


def set_precision(model: nn.Module, precision: str) -> None:
    """Casts the weights in place: "fp32", or "bf16" (linear layers in bfloat16; tables and norms float32)."""
    if precision not in ("fp32", "bf16"):
        raise ModelError(f"precision {precision!r}: expected fp32 or bf16")
    model.float()
    if precision == "bf16":
        for module in model.modules():
            if isinstance(module, Linear):
                module.to(torch.bfloat16)
