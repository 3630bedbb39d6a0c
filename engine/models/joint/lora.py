"""LoRA: training a tower through small low-rank additions to its linear layers.

Source: arXiv:2106.09685. The addition is a parametrisation of the weight, so every way in which a layer uses
its weight sees it, and the merged tower is a plain one. Legend: O outputs, I inputs, R rank.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from engine.models.errors import ModelError


class LowRank(nn.Module):
    """weight + alpha/rank * B A. B starts at zero: an adapted layer begins as what it was."""

    def __init__(self, weight_OI: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        n_out, n_in = weight_OI.shape
        self.a_RI = nn.Parameter(torch.empty(rank, n_in, device=weight_OI.device))
        self.b_OR = nn.Parameter(torch.zeros(n_out, rank, device=weight_OI.device))
        self.factor = alpha / rank
        nn.init.kaiming_uniform_(self.a_RI, a=math.sqrt(5))

    def forward(self, weight_OI: Tensor) -> Tensor:
        return weight_OI + (self.factor * self.b_OR @ self.a_RI).to(weight_OI.dtype)


def add_lora(tower: nn.Module, rank: int, alpha: float | None = None) -> None:
    """Freeze a tower and give each linear layer of its blocks a trainable addition of this rank.

    alpha: its size; None for 2 * rank. Heads and poolers outside the blocks are frozen and not adapted.
    Raises ModelError for a rank below one, and for a tower that is adapted already.
    """
    if rank < 1:
        raise ModelError(f"LoRA rank is {rank}; it must be at least 1")
    layers = [
        module for name, module in tower.named_modules() if isinstance(module, nn.Linear) and _in_block(name)
    ]
    if has_lora(tower) or not layers:
        raise ModelError("LoRA: this tower is adapted already, or has no blocks with linear layers")
    tower.requires_grad_(False)
    for layer in layers:
        addition = LowRank(layer.weight, rank, 2.0 * rank if alpha is None else alpha)
        parametrize.register_parametrization(layer, "weight", addition, unsafe=True)


def has_lora(tower: nn.Module) -> bool:
    return any(isinstance(module, LowRank) for module in tower.modules())


def merge_lora(tower: nn.Module) -> None:
    """Add each addition to its weight for good; the tower is then as before, and still frozen.

    Not by torch's own remove_parametrizations, which edits the layer's class: a copy of the tower shares it.
    """
    for module in list(tower.modules()):
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module, "weight"):
            weight = module.weight.detach().clone()
            del module.parametrizations
            module.__class__ = type(module).__bases__[0]
            module.register_parameter("weight", nn.Parameter(weight, requires_grad=False))


def lora_parameters(tower: nn.Module) -> list[nn.Parameter]:
    """The trainable numbers of an adapted tower."""
    return [
        parameter
        for module in tower.modules()
        if isinstance(module, LowRank)
        for parameter in module.parameters()
    ]


def _in_block(name: str) -> bool:
    """Our encoders number their layers in `blocks`, transformers' in `layer` or `layers`."""
    parts = name.split(".")
    numbered = pairwise(parts)
    return any(part in ("blocks", "layer", "layers") and after.isdigit() for part, after in numbered)
