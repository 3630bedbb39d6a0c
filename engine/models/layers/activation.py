"""Activation functions by the names that checkpoints use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models.errors import ModelError


def _relu(x: Tensor) -> Tensor:
    return F.relu(x) if torch.is_grad_enabled() else torch.relu_(x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": _relu,
    "gelu": F.gelu,  # the exact erf form; the tanh form differs by 8e-4 on the goldens
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function called `name`; ModelError lists the known ones.

    Without gradients it may overwrite its argument, which is the output of a linear layer and used no more.
    """
    if name not in ACTIVATIONS:
        raise ModelError(f"activation {name!r} is not known; known are {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]
