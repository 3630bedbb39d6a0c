"""What is done to cells: genes perturbed, drugs with their dose, and the context it happens in.

Legend: B conditions, K targets of a condition, G genes with features, D width, C condition width, P numbers
of a drug.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.bimamba.config import PerturbationConfig
from engine.models.errors import ModelError
from engine.models.layers.embedding import Embedding
from engine.models.layers.precision import LayerNorm, Linear

NO_TARGET = -1


@dataclass(frozen=True)
class Conditions:
    """B conditions. One without targets and without a dose is the control.

    targets_BK: int64, genes perturbed (`PerturbationModel.target_ids`), in any order; -1 fills short rows.
    drugs_BP: float32, each drug as numbers (a fingerprint or an embedding); a row without dose is ignored.
    dose_B: float32, 0 or more, in the unit of training; it enters as log(1 + dose). None with drugs: 1 each.
    context_B: int64, number of the context; None: the model has one.
    """

    targets_BK: Tensor
    drugs_BP: Tensor | None = None
    dose_B: Tensor | None = None
    context_B: Tensor | None = None

    @classmethod
    def of(
        cls,
        targets: Sequence[Sequence[int]],
        drugs_BP: Tensor | None = None,
        dose_B: Tensor | None = None,
        context_B: Tensor | None = None,
    ) -> Conditions:
        """Conditions from a list of target numbers each; an empty list is no genetic perturbation."""
        width = max((len(genes) for genes in targets), default=0)
        rows = [[*genes, *[NO_TARGET] * (width - len(genes))] for genes in targets]
        targets_BK = torch.tensor(rows, dtype=torch.int64).reshape(len(targets), width)
        return cls(targets_BK, drugs_BP, dose_B, context_B)

    @classmethod
    def from_batch(cls, batch: dict[str, Tensor]) -> Conditions:
        """Conditions among the tensors of a batch: `targets_BK`, `drugs_BP`, `dose_B`, `context_B`."""
        return cls(batch["targets_BK"], batch.get("drugs_BP"), batch.get("dose_B"), batch.get("context_B"))

    def to(self, device: torch.device) -> Conditions:
        """The same on another device."""
        parts = (self.targets_BK, self.drugs_BP, self.dose_B, self.context_B)
        targets_BK, *others = (None if part is None else part.to(device) for part in parts)
        assert targets_BK is not None  # noqa: S101 - it is never None
        return Conditions(targets_BK, *others)

    def __len__(self) -> int:
        return len(self.targets_BK)

    @property
    def doses_B(self) -> Tensor | None:  # noqa: N802 - shape suffix
        """Dose of each condition; None without drugs."""
        if self.drugs_BP is None:
            return None
        if self.dose_B is None:
            return torch.ones(len(self), device=self.drugs_BP.device)
        return self.dose_B.float()

    @property
    def perturbed_B(self) -> Tensor:  # noqa: N802 - shape suffix
        """Which conditions are no control, bool."""
        perturbed_B = (self.targets_BK != NO_TARGET).any(1)
        return perturbed_B if self.doses_B is None else perturbed_B | (self.doses_B > 0)

    def require_fit(self, config: PerturbationConfig) -> None:
        """Raises ModelError when the conditions are not of this model's genes, drugs and contexts."""
        targets_BK = self.targets_BK
        if targets_BK.numel() and not NO_TARGET <= int(targets_BK.min()) <= int(targets_BK.max()) < (
            config.n_known
        ):
            raise ModelError(
                f"conditions: targets run from {int(targets_BK.min())} to {int(targets_BK.max())}; the model "
                f"knows genes 0 to {config.n_known - 1}"
            )
        if (0 if self.drugs_BP is None else self.drugs_BP.shape[1]) not in (0, config.drug_dim):
            raise ModelError(f"conditions: drugs are not the {config.drug_dim} numbers that the model takes")
        if config.drug_dim and self.drugs_BP is None and self.dose_B is not None:
            raise ModelError("conditions: doses without drugs")
        context_B = self.context_B
        if context_B is None and config.n_contexts > 1:
            raise ModelError(
                f"conditions: the model tells {config.n_contexts} contexts apart; give context_B"
            )
        largest = max(config.n_contexts, 1) - 1
        if (
            context_B is not None
            and len(context_B)
            and not (0 <= context_B.min() <= context_B.max() <= largest)
        ):
            raise ModelError(f"conditions: contexts must be 0 to {largest}")


class ConditionEncoder(nn.Module):
    """Conditions to vectors c_BC: sums over targets, a drug times its dose, a context.

    A combination of targets is the sum of what they are alone, behind a network that sees the sum: effects
    need not add up.
    """

    def __init__(self, config: PerturbationConfig) -> None:
        super().__init__()
        width = config.condition_dim
        self.target = Linear(config.d_model, width)
        self.drug = (
            nn.Sequential(Linear(config.drug_dim, width), nn.GELU(), Linear(width, width, bias=False))
            if config.drug_dim
            else None
        )
        self.context = Embedding(config.n_contexts, width) if config.n_contexts else None
        self.joint = nn.Sequential(LayerNorm(width), Linear(width, width), nn.GELU(), Linear(width, width))

    def forward(self, conditions: Conditions, token_GD: Tensor) -> Tensor:
        """c_BC. token_GD: features of all genes that can be targets."""
        targets_BK = conditions.targets_BK
        is_target_BK = (targets_BK != NO_TARGET).float()
        target_BKD = F.embedding(targets_BK.clamp_min(0), token_GD)
        c_BC: Tensor = (self.target(target_BKD) * is_target_BK[..., None]).sum(1)
        dose_B = conditions.doses_B
        if self.drug is not None and conditions.drugs_BP is not None and dose_B is not None:
            c_BC = c_BC + self.drug(conditions.drugs_BP) * dose_B.log1p()[:, None]
        if self.context is not None:
            context_B = conditions.context_B
            zero_B = torch.zeros(len(conditions), dtype=torch.int64, device=c_BC.device)
            c_BC = c_BC + self.context(zero_B if context_B is None else context_B)
        joint_BC: Tensor = self.joint(c_BC)
        return c_BC + joint_BC
