"""Models trained side by side, each on all but some targets: how far to trust them is seen on those.

Legend: B conditions of a batch, C cells of a batch, M members, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from engine.models import bimamba
from engine.models.objective import Loss


class Ensemble(nn.Module):
    """Members see the same batches, without the conditions left out for them (`left_out_BM`)."""

    def __init__(self, models: Sequence[bimamba.PerturbationModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(bimamba.TrainingModule(model) for model in models)

    @property
    def models(self) -> list[bimamba.PerturbationModel]:
        return [cast(bimamba.TrainingModule, member).model for member in self.members]

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """The mean of the members' losses, each by its share of the batch's conditions, so that it does not
        matter how workers cut a batch; and of their metrics.
        """
        left_out_BM = batch.get("left_out_BM")
        losses = []
        for number, member in enumerate(self.members):
            seen_B = None if left_out_BM is None else ~left_out_BM[:, number]
            if seen_B is None or bool(seen_B.all()):
                losses.append(member(batch))
            elif bool(seen_B.any()):
                found = member(_only(batch, seen_B))
                losses.append(Loss(found.loss * seen_B.float().mean(), found.metrics))
            else:
                # Nothing of this batch is for it, but all members must take part in every backward pass.
                found = member(batch)
                losses.append(Loss(found.loss * 0, found.metrics))
        metrics = {
            name: torch.stack([loss.metrics[name] for loss in losses]).mean() for name in losses[0].metrics
        }
        return Loss(torch.stack([loss.loss for loss in losses]).mean(), metrics)


def left_out(targets: Sequence[tuple[str, ...]], members: int) -> npt.NDArray[np.bool_]:
    """[conditions, M]: which members do not see a condition: targets are dealt out in turn, and a member sees
    no condition that hits one of its own. With one member nothing is left out.
    """
    found = np.zeros((len(targets), members), dtype=bool)
    if members > 1:
        names = sorted({gene for genes in targets for gene in genes})
        of = {gene: number % members for number, gene in enumerate(names)}
        for condition, genes in enumerate(targets):
            found[condition, [of[gene] for gene in genes]] = True
    return found


def _only(batch: dict[str, Tensor], seen_B: Tensor) -> dict[str, Tensor]:
    """The conditions of a batch that are seen, with their cells."""
    cell_C = batch.get("condition_C")
    seen_C = seen_B if cell_C is None else seen_B[cell_C]
    found = {}
    for name, tensor in batch.items():
        found[name] = tensor[seen_C if name.partition("_")[2].startswith("C") else seen_B]
    if cell_C is not None:
        found["condition_C"] = (seen_B.cumsum(0) - 1)[found["condition_C"]]
    return found
