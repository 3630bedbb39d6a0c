"""What a training objective returns, whatever the model."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Loss(NamedTuple):
    """loss: scalar to differentiate. metrics: detached scalars by name, to be averaged over ranks."""

    loss: Tensor
    metrics: dict[str, Tensor]
