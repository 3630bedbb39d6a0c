"""How much each feature contributes to a metric: patching, integrated gradients, exact ablation.

All three say what ablating a feature on all its tokens changes: patching to first order, in one forward and
one backward pass for all features, effect_j = sum_t -z_tj (w_j . dm/dx_t); integrated gradients with the
gradient averaged while the chosen features are taken away together; ablation by doing it.

Only active (token, feature) pairs are ever held. Sources: Syed et al. 2023 (attribution patching), Marks et
al. 2024 (its form for sparse features and their errors).
Legend: T packed tokens, R gene tokens among them, N active pairs, D width, F features, J chosen features,
C cells, V versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.interpret.attribution.metrics import Batch, Metric
from engine.interpret.steering.design import Design, Variant
from engine.interpret.steering.grid import EditGrid
from engine.models import Encoder, PackedTokens
from engine.models.interventions import FeatureEdit, Reading
from engine.models.sae.sparse_ops import bag_sum, sampled_products

STEPS = 10


class Pairs(NamedTuple):
    """Active features of gene tokens. rows_R: which packed rows; at_N: which of them; unit_N: what one unit
    of activation is worth in decoder rows, so that the pair adds value * unit * W_dec[feature] to its token.
    """

    rows_R: Tensor
    at_N: Tensor
    feature_N: Tensor
    value_N: Tensor
    unit_N: Tensor

    def of(self, chosen_F: Tensor) -> Pairs:
        """Those of features with chosen_F (bool)."""
        kept_N = chosen_F[self.feature_N]
        return Pairs(self.rows_R, *(part_N[kept_N] for part_N in self[1:]))

    def bounds(self) -> Tensor:
        """[R + 1] bounds of the rows in the pairs."""
        rows = torch.arange(len(self.rows_R) + 1, device=self.at_N.device)
        return torch.searchsorted(self.at_N, rows)


@dataclass
class Attributor:
    """One encoder and one autoencoder on its device, at one hook point, for one metric.

    The encoder's weights stop asking for gradients: only states get them.
    """

    encoder: Encoder
    reading: Reading
    hook: str
    metric: Metric

    def __post_init__(self) -> None:
        self.metric.require(self.encoder)
        self.encoder.requires_grad_(False)
        self.sae = self.reading.sae
        self.norm_F: Tensor | None = None
        if self.sae.config.rescale_acts_by_decoder_norm:
            self.norm_F = self.sae.W_dec.detach().float().norm(dim=1)

    def gradient(self, batch: Batch, away_TD: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """State x_TD at the hook, dm/dx_TD there, m_C and whether each cell has one. away_TD: what is taken
        from the state first; the gradient is then of the state so changed."""
        states: list[Tensor] = []

        def lead(x_TD: Tensor, tokens: PackedTokens) -> Tensor:
            changed_TD = x_TD.detach() if away_TD is None else (x_TD.detach() - away_TD).to(x_TD.dtype)
            states.append(x_TD.detach())
            leaf.append(changed_TD.requires_grad_())
            return changed_TD

        leaf: list[Tensor] = []
        with torch.enable_grad():
            m_C, has_C = self.metric.values(self.encoder, batch, {self.hook: lead})
            (gradient_TD,) = torch.autograd.grad(m_C.sum(), leaf[0])
        return states[0], gradient_TD.float(), m_C.detach(), has_C

    @torch.no_grad()
    def pairs(self, x_TD: Tensor, tokens: PackedTokens) -> Pairs:
        """Active features of the tokens that the autoencoder is about."""
        rows_R = self.reading.rows(tokens)
        x_RD = self.reading.read(x_TD[rows_R], tokens.ids_T[rows_R])
        index_RK, value_RK = self.sae.encode_sparse(x_RD)
        fires_RK = value_RK > 0
        at_N = fires_RK.nonzero()[:, 0]
        feature_N, value_N = index_RK[fires_RK], value_RK[fires_RK]
        unit_N = torch.ones_like(value_N) if self.norm_F is None else 1 / self.norm_F[feature_N]
        scale_R1 = self.sae.token_scale(x_RD)
        if scale_R1 is not None:
            unit_N = unit_N * scale_R1[at_N, 0]
        return Pairs(rows_R, at_N, feature_N, value_N, unit_N)

    @torch.no_grad()
    def effects(self, pairs: Pairs, gradient_TD: Tensor) -> Tensor:
        """To first order, what ablating each pair's feature on its token changes, float32 [N]."""
        table_FD = self.sae.W_dec.detach().float()
        products_N = sampled_products(
            gradient_TD[pairs.rows_R].contiguous(), pairs.at_N, pairs.bounds(), pairs.feature_N, table_FD
        )
        return -pairs.value_N * pairs.unit_N * products_N

    def integrated(self, batch: Batch, pairs: Pairs, steps: int = STEPS) -> Tensor:
        """The same, [N], with the gradient averaged over `steps` points (midpoints) of the way from the state
        to the state without any of `pairs`."""
        with torch.no_grad():
            table_FD = self.sae.W_dec.detach().float()
            weight_N = pairs.value_N * pairs.unit_N
            part_RD = bag_sum(weight_N, pairs.feature_N, pairs.bounds(), table_FD)
            whole_TD = part_RD.new_zeros(len(batch.id_T), part_RD.shape[1])
            whole_TD[pairs.rows_R] = part_RD
        mean_TD = torch.zeros_like(whole_TD)
        for step in range(steps):
            mean_TD += self.gradient(batch, (step + 0.5) / steps * whole_TD)[1] / steps
        return self.effects(pairs, mean_TD)

    @torch.no_grad()
    def ablated(
        self, batch: Batch, features: Sequence[int], cells: npt.NDArray[np.int64], most_tokens: int
    ) -> Tensor:
        """What ablating each feature by itself on all its tokens changes in every cell, float32 d_CJ.

        most_tokens: budget of a packed batch that holds several versions of each cell.
        """
        at_once = max(most_tokens // max(batch.tokens.n_tokens, 1) - 1, 1)
        parts = []
        for start in range(0, len(features), at_once):
            edits = [FeatureEdit(feature, "ablate") for feature in features[start : start + at_once]]
            variants = (Variant("base"), *(Variant("edit", 0, 1.0, (edit,)) for edit in edits))
            design = Design(self.hook, "delta", 0, "", 0, (), variants)
            many, rows_VT = batch.repeated(len(variants))
            grid = EditGrid(self.reading, design, rows_VT, batch.tokens, cells)
            m_CV, _ = self.metric.values(self.encoder, many, {self.hook: grid})
            m_CV = m_CV.view(-1, len(variants))
            parts.append(m_CV[:, 1:] - m_CV[:, :1])
        return torch.cat(parts, dim=1)
