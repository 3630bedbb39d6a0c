"""The training objective of every architecture behind one call.

Legend: B tokens of a batch, D input width, O output width, F features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.errors import ModelError
from engine.models.sae.config import SAEConfig
from engine.models.sae.initialise import InitOptions, initialise
from engine.models.sae.model import SAE, per_feature_names
from engine.models.sae.options import Knobs, ObjectiveOptions, Terms
from engine.models.sae.parallelise import ALONE, FeatureShard
from engine.models.sae.penalised import gated_terms, jumprelu_terms, standard_terms
from engine.models.sae.selection import Scratch
from engine.models.sae.topk_family import topk_terms


class SparseLoss(NamedTuple):
    """loss: scalar to differentiate. metrics: detached scalars by name. fired_F (bool): active features.
    r_BO: detached reconstruction."""

    loss: Tensor
    metrics: dict[str, Tensor]
    fired_F: Tensor
    r_BO: Tensor


class TrainingModule(nn.Module):
    """An autoencoder with its loss; `forward` is all a training loop calls.

    Attributes a recipe may set at any step: `k` (k-annealing; a fraction is an average over the batch in
    BatchTopK and Matryoshka), `sparsity_coefficient` (warm-up), `target_l0` (quadratic JumpReLU). State
    beside the weights is the buffer `sae.topk_threshold` of BatchTopK and Matryoshka, which follows the
    batches; `calibrate_threshold` sets it at the end.

    `shard`: the features that `sae` holds of a larger autoencoder, and the processes that compute the same
    loss. Several processes then give what one with all features and all tokens gives: a batch of BatchTopK
    is that of all. `per_feature` names the weights of which this process has a range.

    Raises ModelError for inputs that are normalised token by token and for options that do not fit.
    """

    def __init__(
        self, sae: SAE, options: ObjectiveOptions | None = None, shard: FeatureShard = ALONE
    ) -> None:
        super().__init__()
        if sae.config.normalize_activations != "none":
            raise ModelError("train on activations scaled beforehand (normalize_activations none)")
        # A loaded encoder may lie the other way around in memory.
        sae.W_enc_FD.data = sae.W_enc_FD.data.contiguous()
        self.sae = sae
        self.options = options or ObjectiveOptions()
        self.k = float(sae.config.k or 0)
        self.sparsity_coefficient = self.options.sparsity_coefficient
        self.target_l0 = self.options.target_l0
        self._scratch = Scratch()
        self.feature_shard = shard
        self.per_feature = tuple(f"sae.{name}" for name in per_feature_names(sae.config.architecture))
        if shard.world > 1:
            self._mark_parallel()
        if sae.config.architecture == "matryoshka_batchtopk":
            self.options.prefixes(self.n_features)
        quadratic = sae.config.architecture == "jumprelu" and self.options.sparsity_mode == "quadratic"
        if quadratic and not 0 < (self.target_l0 or 0) <= self.n_features:
            raise ModelError(
                f"target_l0 is {self.target_l0}; the quadratic penalty needs one up to {self.n_features}"
            )

    @property
    def n_features(self) -> int:
        """Of the whole autoencoder."""
        return self.sae.d_sae * self.feature_shard.world

    def _mark_parallel(self) -> None:
        if self.sae.config.architecture == "standard" and self.options.lp_norm != 1:
            raise ModelError(
                f"lp_norm is {self.options.lp_norm}; only 1 can be added up over parts of the features"
            )
        for name in self.per_feature:
            # What Megatron and DeepSpeed call a weight whose norm adds up over the group.
            self.get_parameter(name).model_parallel = True  # type: ignore[attr-defined]

    def forward(
        self, x_BD: Tensor, dead_F: Tensor | None = None, target_BO: Tensor | None = None
    ) -> SparseLoss:
        """Loss of a batch: squared error summed over O, mean over B, plus the architecture's own terms.

        dead_F: bool; None counts no feature as dead. target_BO: what a transcoder reconstructs; the input
        otherwise. Metrics: mse, l0, fvu (variance unexplained, around the batch's mean), and, where they
        exist, else 0: aux (AuxK, pre-activation loss, Gated's reconstruction by gates), sparsity; Matryoshka
        adds inner (sum of the losses of the shorter prefixes), BatchTopK and Matryoshka the threshold.
        """
        if (target_BO is None) != (self.sae.config.d_out is None):
            raise ModelError("a target belongs to transcoders, and every transcoder needs one")
        x_BD = x_BD.to(self.sae.W_enc.dtype)
        y_BO = x_BD if target_BO is None else target_BO.to(self.sae.W_enc.dtype)
        terms = self._terms(x_BD, y_BO, dead_F)
        mse = F.mse_loss(terms.r_BO, y_BO, reduction="sum") / len(y_BO)
        loss = mse + sum(terms.penalties.values())
        return SparseLoss(loss, self._metrics(mse, terms, y_BO), terms.fired_F, terms.r_BO.detach())

    def _terms(self, x_BD: Tensor, y_BO: Tensor, dead_F: Tensor | None) -> Terms:
        knobs = Knobs(self.k, self.sparsity_coefficient, self.target_l0, self.feature_shard)
        sae, options = self.sae, self.options
        if sae.config.architecture == "standard":
            return standard_terms(sae, options, knobs, x_BD, dead_F)
        if sae.config.architecture == "gated":
            return gated_terms(sae, options, knobs, x_BD, y_BO, dead_F)
        if sae.config.architecture == "jumprelu":
            return jumprelu_terms(sae, options, knobs, x_BD, dead_F)
        return topk_terms(sae, options, knobs, self._scratch, x_BD, y_BO, dead_F)

    @torch.no_grad()
    def _metrics(self, mse: Tensor, terms: Terms, y_BO: Tensor) -> dict[str, Tensor]:
        variance = torch.linalg.vector_norm(y_BO - y_BO.mean(0)).square() / len(y_BO)
        metrics = {
            "mse": mse.detach(),
            "aux": mse.new_zeros(()),
            "sparsity": mse.new_zeros(()),
            "fvu": mse.detach() / variance.clamp(min=torch.finfo(variance.dtype).tiny),
            "l0": terms.l0.float(),
        }
        if "topk_threshold" in self.sae._buffers:
            metrics["threshold"] = self.sae.topk_threshold.float()
        return metrics | {name: penalty.detach() for name, penalty in terms.penalties.items()}


def objective(
    config: SAEConfig,
    options: ObjectiveOptions | None = None,
    *,
    init: InitOptions | None = None,
    seed: int = 0,
    shard: FeatureShard = ALONE,
) -> TrainingModule:
    """A fresh autoencoder of any architecture with its training loss.

    `config` is that of the whole; of it the module holds the shard's features, with the numbers they have in
    the whole.
    """
    return TrainingModule(initialise(config, init, seed=seed, shard=shard), options, shard)
