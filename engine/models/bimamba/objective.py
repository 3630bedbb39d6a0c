"""The training objective: what perturbed cells look like, given their basal state and condition.

Legend: B conditions of a batch, C cells of a batch, G genes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.models.bimamba.conditions import Conditions
from engine.models.bimamba.heads import negative_binomial_loss
from engine.models.bimamba.model import PerturbationModel
from engine.models.objective import Loss


class TrainingModule(nn.Module):
    """The model with its loss; a training loop calls `forward` alone."""

    def __init__(self, model: PerturbationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """Loss of the cells of a batch; cells of one condition share its forward pass.

        batch: `basal_BG` and the tensors of `Conditions.from_batch`; `condition_C`, which of the B conditions
        each cell is of (absent: one cell each, in order). Linear head: `expression_CG`, log-normalised cells
        or means of cells; the loss is the mean squared error. Probabilistic head: `counts_CG`, raw counts,
        and `library_C`, counts of each whole cell (absent: the sum over these genes); the loss is the mean of
        -log NB, nats per cell and gene, with lgamma(x + 1) in it.
        Metrics: `mse` or `nll`; `mse_control` or `nll_control`, the same if nothing changed.
        """
        prediction = self.model(batch["basal_BG"], Conditions.from_batch(batch))
        basal_BG = batch["basal_BG"].float()
        if prediction.log_rate_BG is None:
            observed_CG = batch["expression_CG"].float()
            cell_C = batch.get("condition_C", torch.arange(len(observed_CG), device=observed_CG.device))
            loss = (prediction.mean_BG[cell_C] - observed_CG).square().mean()
            unchanged = (basal_BG.expand_as(prediction.mean_BG)[cell_C] - observed_CG).square().mean()
            return Loss(loss, {"mse": loss.detach(), "mse_control": unchanged})
        count_CG = batch["counts_CG"].float()
        cell_C = batch.get("condition_C", torch.arange(len(count_CG), device=count_CG.device))
        log_library_C1 = batch.get("library_C", count_CG.sum(1)).float().clamp_min(1).log()[:, None]
        log_theta_G = self.model.head.log_dispersion_G
        assert log_theta_G is not None  # noqa: S101 - the probabilistic head has one
        log_mean_CG = prediction.log_rate_BG[cell_C] + log_library_C1
        loss = negative_binomial_loss(count_CG, log_mean_CG, log_theta_G).mean()
        with torch.no_grad():
            floor = self.model.config.basal_floor
            unchanged_BG = (basal_BG.expm1() + floor).log().log_softmax(1).expand_as(prediction.log_rate_BG)
            log_unchanged_CG = unchanged_BG[cell_C] + log_library_C1
            unchanged = negative_binomial_loss(count_CG, log_unchanged_CG, log_theta_G).mean()
        return Loss(loss, {"nll": loss.detach(), "nll_control": unchanged})
