"""A table of vectors that is not filled while only its shape is wanted."""

from __future__ import annotations

from torch import nn


class Embedding(nn.Embedding):
    """`nn.Embedding`. On the meta device, where no weight has a value, it draws none: PyTorch imports its
    compiler to do that, a second that everything which loads an encoder would pay.
    """

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()
