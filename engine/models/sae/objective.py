"""The TopK training objective: reconstruct, and let dead features explain what is left.

Source: Gao et al. 2024 (arXiv 2406.04093), scaled as in SAELens 6.54: AuxK is not divided by the variance.
Legend: B tokens of a batch, D input width, F features, K active features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.errors import ModelError
from engine.models.sae.model import SAE


class SparseLoss(NamedTuple):
    """loss: scalar to differentiate. metrics: detached scalars by name. fired_F (bool): active features."""

    loss: Tensor
    metrics: dict[str, Tensor]
    fired_F: Tensor


class TrainingModule(nn.Module):
    """A TopK autoencoder with its loss; `forward` is all a training loop calls."""

    def __init__(self, sae: SAE, aux_coefficient: float = 1.0) -> None:
        super().__init__()
        if sae.config.architecture != "topk":
            raise ModelError(f"only topk autoencoders are trained here, not {sae.config.architecture}")
        if sae.config.normalize_activations != "none":
            raise ModelError("train on activations scaled beforehand (normalize_activations none)")
        self.sae = sae
        self.aux_coefficient = aux_coefficient

    def forward(self, x_BD: Tensor, dead_F: Tensor | None = None) -> SparseLoss:
        """Loss of a batch: squared error summed over D, mean over B, plus AuxK over the features of dead_F.

        dead_F: bool; None counts no feature as dead. Metrics: mse, aux, l0 and fvu (variance unexplained,
        around the batch's mean).
        """
        sae, x_BD = self.sae, x_BD.to(self.sae.W_enc.dtype)
        h_BF = sae.pre_activations(sae.centred(x_BD))
        index_BK, value_BK = sae.top_features(h_BF)
        value_BK = value_BK.relu()
        r_BD = self._decode(index_BK, value_BK) + sae.b_dec
        mse = (r_BD - x_BD).pow(2).sum(-1).mean()
        aux = self._aux_loss(h_BF, (x_BD - r_BD).detach(), dead_F)
        with torch.no_grad():
            fired_F = torch.zeros(sae.d_sae, dtype=torch.bool, device=x_BD.device)
            fired_F[index_BK[value_BK > 0]] = True
            variance = (x_BD - x_BD.mean(0)).pow(2).sum(-1).mean()
            metrics = {
                "mse": mse.detach(),
                "aux": aux.detach(),
                "fvu": mse / variance.clamp(min=torch.finfo(variance.dtype).tiny),
                "l0": (value_BK > 0).sum(-1).float().mean(),
            }
        return SparseLoss(mse + aux, metrics, fired_F)

    def _aux_loss(self, h_BF: Tensor, residual_BD: Tensor, dead_F: Tensor | None) -> Tensor:
        """Squared error of the residual's reconstruction by the best dead features, not rectified.

        At most D/2 of them; with fewer dead features the loss counts less.
        """
        n_dead = 0 if dead_F is None else int(dead_F.sum())
        if dead_F is None or n_dead == 0:
            return h_BF.new_zeros(())
        full = self.sae.d_in // 2
        candidates_BF = h_BF.masked_fill(~dead_F, float("-inf"))
        value_BK, index_BK = torch.topk(candidates_BF, min(full, n_dead), dim=-1, sorted=False)
        error_BD = self._decode(index_BK, value_BK) - residual_BD
        return self.aux_coefficient * min(n_dead / full, 1.0) * error_BD.pow(2).sum(-1).mean()

    def _decode(self, index_BK: Tensor, value_BK: Tensor) -> Tensor:
        """Sum of the active features' decoder rows, without bias; other rows are never touched."""
        W_dec = self.sae.W_dec
        if self.sae.config.rescale_acts_by_decoder_norm:
            value_BK = value_BK * (1 / W_dec.norm(dim=-1))[index_BK]
        return F.embedding_bag(index_BK, W_dec, per_sample_weights=value_BK, mode="sum")
