"""Features brought to mean 0 and deviation 1 before a head, and folded into its weights when it is saved.

Features of a pretrained tower share a large common part, behind which a head has to find the differences
between cells first. Legend: B rows of a batch, D width of the features, U width of the common space.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from engine.models.errors import ModelError
from engine.models.joint.heads import ResidualHead, SphereHead
from engine.models.joint.model import JointModel

# Of the mean deviation: a dimension that hardly varies is left small instead of made noise of full size.
LEAST_DEVIATION = 1e-3


class StandardisedHead(nn.Module):
    """A head behind (features - mean) / deviation. `measure` sets them; until then they change nothing."""

    mean_D: Tensor
    deviation_D: Tensor

    def __init__(self, inner: nn.Module, width_in: int) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean_D", torch.zeros(width_in))
        self.register_buffer("deviation_D", torch.ones(width_in))

    def forward(self, f_BD: Tensor) -> Tensor:
        h_BU: Tensor = self.inner((f_BD - self.mean_D) / self.deviation_D)
        return h_BU

    @torch.no_grad()
    def measure(self, f_BD: Tensor) -> None:
        """Mean and deviation of these features. Raises ModelError for fewer than two, or NaN among them."""
        if len(f_BD) < 2 or not bool(torch.isfinite(f_BD).all()):
            raise ModelError(f"{len(f_BD)} features to standardise by: expected at least 2, all finite")
        deviation_D = f_BD.double().std(0)
        least = LEAST_DEVIATION * deviation_D.mean().clamp(min=1e-12)
        self.mean_D.copy_(f_BD.double().mean(0))
        self.deviation_D.copy_(deviation_D.clamp(min=float(least)))

    @torch.no_grad()
    def folded(self) -> nn.Module:
        """The plain head that gives the same in eval mode."""
        head = copy.deepcopy(self.inner)
        shift_D = self.mean_D / self.deviation_D
        if isinstance(head, SphereHead):
            head.project.bias.sub_(head.project.weight @ shift_D)
            head.project.weight.div_(self.deviation_D)
        elif isinstance(head, ResidualHead):
            # `expand` has no bias; the BatchNorm behind it takes the shift into its running mean.
            head.batch_norm.get_buffer("running_mean").add_(head.expand.weight @ shift_D)
            head.expand.weight.div_(self.deviation_D)
            head.shortcut.bias.sub_(head.shortcut.weight @ shift_D)
            head.shortcut.weight.div_(self.deviation_D)
        else:
            raise ModelError(f"a {type(head).__name__} cannot take standardised features in")
        return head


def standardise(model: JointModel) -> None:
    """Put standardisation before both heads; `StandardisedHead.measure` says by what."""
    model.cell_head = StandardisedHead(model.cell_head, model.config.cell_width)
    model.text_head = StandardisedHead(model.text_head, model.config.text_width)


def fold(model: JointModel) -> None:
    """Take standardisation into the heads' weights: a plain model again, with the same embeddings."""
    for side in ("cell_head", "text_head"):
        head = model.get_submodule(side)
        if isinstance(head, StandardisedHead):
            setattr(model, side, head.folded())
