"""What a perturbation does to the expression of every gene: genes as a sequence along the genome.

Legend: B conditions, G measured genes, K known genes (measured ones and further targets), L = G + 1 positions
(the condition's token and the genes), D width, C condition width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from engine.models.bimamba.bidirectional import BiMamba
from engine.models.bimamba.conditions import NO_TARGET, ConditionEncoder, Conditions
from engine.models.bimamba.config import PerturbationConfig
from engine.models.bimamba.gene_tokens import GeneTokens
from engine.models.bimamba.heads import ExpressionHead, Prediction
from engine.models.errors import ModelError
from engine.models.layers.precision import LayerNorm, Linear

_SHOWN = 5


class Layer(nn.Module):
    """Pre-norm bidirectional Mamba whose norm and strength depend on the condition (adaptive LayerNorm)."""

    def __init__(self, config: PerturbationConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(config.d_model)
        self.condition = Linear(config.condition_dim, 3 * config.d_model)
        nn.init.normal_(self.condition.weight, std=0.02)
        nn.init.zeros_(self.condition.bias)
        self.mixer = BiMamba(config)
        self.residual = config.residual

    def forward(self, x_BLD: Tensor, c_BC: Tensor, valid_BL: Tensor | None = None) -> Tensor:
        scale_BD, shift_BD, gate_BD = self.condition(F.silu(c_BC)).chunk(3, -1)
        h_BLD = torch.addcmul(shift_BD[:, None], self.norm(x_BLD), 1 + scale_BD[:, None])
        y_BLD: Tensor = self.mixer(h_BLD, valid_BL) * (1 + gate_BD[:, None])
        return x_BLD + y_BLD if self.residual else y_BLD


class PerturbationModel(nn.Module):
    """Basal expression and conditions in, perturbed expression out (`create`, `load`).

    genes: names of the measured genes, in the order of every [B, G] tensor. targets: further genes that can
        be perturbed. Both are names only; the network knows genes by number.
    checkpoint_layers: whether layers are computed again in the backward pass instead of kept; a layer's
        input is all that is kept of it.
    """

    order_G: Tensor

    def __init__(self, config: PerturbationConfig) -> None:
        super().__init__()
        self.config = config
        self.genes: tuple[str, ...] = ()
        self.targets: tuple[str, ...] = ()
        self.checkpoint_layers = False
        self.gene_tokens = GeneTokens(config)
        self.condition = ConditionEncoder(config)
        self.condition_token = Linear(config.condition_dim, config.d_model)
        # A gene's basal expression, whether it is expressed at all, and whether it is itself a target.
        self.state = Linear(3, config.d_model)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.final_norm = LayerNorm(config.d_model)
        self.head = ExpressionHead(config)
        # Position on the genome -> column of the user's tensors.
        self.register_buffer("order_G", torch.arange(config.n_genes))

    def forward(
        self,
        basal_BG: Tensor,
        conditions: Conditions,
        library_B: Tensor | None = None,
        *,
        with_identity: bool = True,
    ) -> Prediction:
        """The perturbed state of B cells or contexts.

        basal_BG: log-normalised expression before the perturbation (log(1 + counts per `target_sum`)), of a
            cell or the mean of a context's controls; one row serves all conditions ([1, G]).
        library_B: counts of the cells to predict (probabilistic head); None: `target_sum` each.
        with_identity: False to know targets by their features alone, as if they had never been seen.

        Conditions are not checked here, which would wait for a GPU; see `Conditions.require_fit`.
        """
        n_conditions = len(conditions)
        basal_BG = basal_BG.float().expand(n_conditions, -1)
        x_BLD, c_BC = self._tokens(basal_BG, conditions, with_identity)
        for layer in self.layers:
            if self.checkpoint_layers and torch.is_grad_enabled():
                x_BLD = checkpoint(layer, x_BLD, c_BC, use_reentrant=False)
            else:
                x_BLD = layer(x_BLD, c_BC)
        perturbed_B = conditions.perturbed_B
        along_BG = self.head.delta(self.final_norm(x_BLD[:, 1:]), perturbed_B)
        delta_BG = along_BG[:, self.order_G.argsort()]
        prediction: Prediction = self.head(delta_BG, basal_BG, perturbed_B, library_B)
        return prediction

    def _tokens(self, basal_BG: Tensor, conditions: Conditions, with_identity: bool) -> tuple[Tensor, Tensor]:
        """The condition's token and all genes along the genome x_BLD, and the condition c_BC."""
        token_KD = self.gene_tokens()
        c_BC = self._conditioned(conditions, token_KD, with_identity)
        along_BG = basal_BG[:, self.order_G] * float(self.config.basal)
        state_BG3 = torch.stack([along_BG, (along_BG > 0).float(), self._is_target(conditions)], -1)
        gene_BGD = token_KD[self.order_G] + self.state(state_BG3)
        return torch.cat([self.condition_token(c_BC)[:, None], gene_BGD], 1).float(), c_BC

    def _conditioned(self, conditions: Conditions, token_KD: Tensor, with_identity: bool) -> Tensor:
        """c_BC; in training some targets, drawn anew each time, are known by their features alone."""
        share = self.config.identity_dropout if self.training else 0.0
        if with_identity and not share:
            named_BC: Tensor = self.condition(conditions, token_KD)
            return named_BC
        bare_BC: Tensor = self.condition(conditions, self.gene_tokens(with_identity=False))
        if not with_identity:
            return bare_BC
        bare_B1 = torch.rand(len(conditions), 1, device=bare_BC.device) < share
        return torch.where(bare_B1, bare_BC, self.condition(conditions, token_KD))

    def _is_target(self, conditions: Conditions) -> Tensor:
        """1 where a gene along the genome is a target of the condition [B, G]."""
        nobody = self.config.n_known  # a column of its own for what fills short rows
        column_BK = conditions.targets_BK.masked_fill(conditions.targets_BK == NO_TARGET, nobody)
        is_target_BX = torch.zeros(len(conditions), nobody + 1, device=self.order_G.device)
        return is_target_BX.scatter_(1, column_BK, 1.0)[:, self.order_G]

    def target_ids(self, names: Sequence[str]) -> list[int]:
        """Numbers of genes for `Conditions.of`, by name. Raises ModelError for a gene the model lacks."""
        known = {name: number for number, name in enumerate((*self.genes, *self.targets))}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ModelError(
                f"targets not known to the model: {', '.join(unknown[:_SHOWN])}"
                f"{' ...' if len(unknown) > _SHOWN else ''}. It knows {len(known)} genes; a model that "
                "should predict others is created with them as targets"
            )
        return [known[name] for name in names]
