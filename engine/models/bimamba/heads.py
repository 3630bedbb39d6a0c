"""From the last layer's genes to expression: linear (log-normalised) or probabilistic (counts).

Legend: B conditions, C cells, G genes, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.bimamba.config import PerturbationConfig
from engine.models.layers.precision import Linear

# In float32 the two lgammas of the loss cancel: errors are 0.008 nats at theta = 1e4 and 4 at 1e7. A rate
# beyond e^12 counts in a cell is no expression. Sources: specs/perturbation.md 1.2.
LOG_THETA = (-10.0, 9.2)
LOG_MEAN = (-20.0, 12.0)


class Prediction(NamedTuple):
    """What perturbed cells look like, genes in the order they were given in.

    mean_BG: linear: log-normalised expression; probabilistic: expected counts at the given library sizes.
    delta_BG: what the perturbation adds to the basal state: to log-normalised expression, or to the logarithm
        of a gene's rate before rates are brought to a sum of one (nats). Exactly 0 for controls.
    dispersion_G: theta of the negative binomial (variance mean + mean^2 / theta); None for the linear head.
    log_rate_BG: logarithm of each gene's share of a cell's counts; None for the linear head.
    """

    mean_BG: Tensor
    delta_BG: Tensor
    dispersion_G: Tensor | None
    log_rate_BG: Tensor | None

    def log_normalised(self, target_sum: float = 1e4) -> Tensor:
        """log(1 + counts per target_sum), float32 [B, G], whichever the head (natural logarithm)."""
        if self.log_rate_BG is None:
            return self.mean_BG
        return (self.log_rate_BG.exp() * target_sum).log1p()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One cell of counts a condition, int64 [B, G], drawn from the negative binomial."""
        if self.dispersion_G is None:
            raise ValueError("a linear head predicts means, not counts; train with the probabilistic head")
        theta_G = self.dispersion_G.expand_as(self.mean_BG)
        rate_BG = torch._standard_gamma(theta_G, generator=generator) * self.mean_BG / theta_G
        return torch.poisson(rate_BG, generator=generator).long()


class ExpressionHead(nn.Module):
    """delta_BG from the last layer, and the prediction it makes of a basal state.

    Its output map starts at zero: an untrained model predicts that nothing changes.
    """

    def __init__(self, config: PerturbationConfig) -> None:
        super().__init__()
        self.output = Linear(config.d_model, 1)
        self.mean_response_G = nn.Parameter(torch.zeros(config.n_genes)) if config.mean_response else None
        probabilistic = config.head == "probabilistic"
        self.log_dispersion_G = nn.Parameter(torch.zeros(config.n_genes)) if probabilistic else None
        self.target_sum, self.basal_floor = config.target_sum, config.basal_floor
        self.reset()

    def reset(self) -> None:
        """Back to "no change"."""
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def delta(self, x_BGD: Tensor, perturbed_B: Tensor) -> Tensor:
        """delta_BG, of genes in the order of `x_BGD`; 0 for controls. `mean_response_G` is not in it."""
        delta_BG: Tensor = self.output(x_BGD).squeeze(-1).float()
        return delta_BG * perturbed_B[:, None]

    def forward(
        self, delta_BG: Tensor, basal_BG: Tensor, perturbed_B: Tensor, library_B: Tensor | None
    ) -> Prediction:
        """The prediction, everything in the user's order of genes."""
        if self.mean_response_G is not None:
            delta_BG = delta_BG + self.mean_response_G.float() * perturbed_B[:, None]
        basal_BG = basal_BG.float()
        if self.log_dispersion_G is None:
            return Prediction(basal_BG + delta_BG, delta_BG, None, None)
        log_basal_BG = (basal_BG.expm1() + self.basal_floor).log()
        log_rate_BG = (log_basal_BG + delta_BG).log_softmax(1)
        if library_B is None:
            library_B = basal_BG.new_full((len(basal_BG),), self.target_sum)
        mean_BG = (log_rate_BG + library_B.float().log()[:, None]).clamp(*LOG_MEAN).exp()
        theta_G = self.log_dispersion_G.float().clamp(*LOG_THETA).exp()
        return Prediction(mean_BG, delta_BG, theta_G, log_rate_BG)


def negative_binomial_loss(count_CG: Tensor, log_mean_CG: Tensor, log_theta_G: Tensor) -> Tensor:
    """-log NB(count; mean, theta) of every gene of every cell, nats, float32 [C, G] (float64 for float64).

    count_CG: raw counts. Variance is mean + mean^2 / theta. log_mean and log_theta are clamped to ranges in
    which float32 is exact to 0.01 nats. Exactly -`scipy.stats.nbinom.logpmf(count, theta, theta / (theta +
    mean))`: theta softplus(m - t) + x softplus(t - m) needs no small number added anywhere.
    """
    m_CG, t_G = _exact(log_mean_CG).clamp(*LOG_MEAN), _exact(log_theta_G).clamp(*LOG_THETA)
    x_CG = count_CG.to(m_CG.dtype)
    theta_G = t_G.exp()
    combinations_CG = theta_G.lgamma() + (x_CG + 1).lgamma() - (x_CG + theta_G).lgamma()
    return combinations_CG + theta_G * F.softplus(m_CG - t_G) + x_CG * F.softplus(t_G - m_CG)


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
