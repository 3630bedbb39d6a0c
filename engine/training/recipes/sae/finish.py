"""The end of training: thresholds fitted on held-out tokens, what the autoencoder is worth, where it is from.

Legend: B tokens of a batch, D width, F features.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch

from engine.models import sae
from engine.models.sae.config import TRAINING_FORMS
from engine.training.activation_sources import ActivationSource
from engine.training.options import TrainingOptions
from engine.training.recipe import Share
from engine.training.recipes.sae.module import SparseTraining
from engine.training.recipes.sae.statistics import NO_LIMIT

# Held-out tokens: half of them set a threshold, half of them measure. A third digit of FVU and L0.
HELD_OUT_TOKENS = 65_536
# Less of a very wide autoencoder, which one process encodes: minutes on a core, seconds on a GPU.
MOST_FLOPS = 2e13
MOST_BYTES = 256 << 20
ENCODED_TOGETHER = 1024
# Elements of the encoder up to which one process holds the whole autoencoder to measure it.
MOST_WEIGHTS = 1 << 30
LISTED_GENES = 20


class Feeding(Protocol):
    """A training module that makes of a batch what its autoencoder is fed."""

    objective: sae.TrainingModule

    def inputs(self, x_BD: torch.Tensor, gene_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x'_BD, and which tokens are outliers."""


@dataclass(frozen=True)
class Measured:
    """Squared error and variance of each dimension of what is reconstructed, summed over tokens."""

    error_O: torch.Tensor
    variance_O: torch.Tensor
    l0: float
    n_tokens: int

    @property
    def fvu(self) -> float:
        return unexplained(self.error_O, self.variance_O)

    def as_json(self) -> dict[str, Any]:
        return {"reference_fvu": self.fvu, "reference_l0": self.l0, "reference_tokens": self.n_tokens}


def unexplained(error_O: torch.Tensor, variance_O: torch.Tensor) -> float:
    """Fraction of the variance of some dimensions."""
    return float(error_O.sum()) / max(float(variance_O.sum()), 1e-30)


@torch.no_grad()
def settle(module: SparseTraining, source: ActivationSource, options: TrainingOptions) -> dict[str, Any]:
    """Sets the threshold of BatchTopK and Matryoshka; FVU and L0 on tokens that come after the last step.

    In an epoch that began before the last step ended these have not been trained on. For the process that
    exports, alone.
    """
    autoencoder = module.objective.sae
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module.to(device)
    x_BD = held_out(module, source, options, device)
    half = max(len(x_BD) // 2, 1)
    if autoencoder.config.architecture in TRAINING_FORMS:
        sae.calibrate_threshold(autoencoder, torch.split(x_BD[:half], ENCODED_TOGETHER))
    found = measured(autoencoder, x_BD[half:] if len(x_BD) > 1 else x_BD)
    module.cpu()
    return found.as_json()


def held_out(
    module: Feeding, source: ActivationSource, options: TrainingOptions, device: torch.device
) -> torch.Tensor:
    """x_BD as the module feeds them, of tokens that come after the last step: as many as are worth it."""
    d, width = source.width, module.objective.sae.d_sae
    n_tokens = min(HELD_OUT_TOKENS, int(MOST_FLOPS / (2 * d * width)), MOST_BYTES // (4 * d))
    n_tokens = max(2, min(n_tokens, int(source.n_tokens)))
    share = Share(0, 1, options.batch, 1, options.seed)
    with closing(source.batches(options.steps, share, device)) as stream:
        parts = [module.inputs(*batch)[0] for batch in islice(stream, -(-n_tokens // options.batch))]
    return torch.cat(parts)[:n_tokens]


def measured(autoencoder: sae.SAE, x_BD: torch.Tensor, y_BO: torch.Tensor | None = None) -> Measured:
    """What the autoencoder is worth on x_BD; y_BO is what a transcoder reconstructs of it."""
    target_BO = x_BD if y_BO is None else y_BO
    error_O = torch.zeros(target_BO.shape[1], dtype=torch.float64, device=x_BD.device)
    active = 0.0
    for part_BD, part_BO in zip(
        torch.split(x_BD, ENCODED_TOGETHER), torch.split(target_BO, ENCODED_TOGETHER), strict=True
    ):
        codes = autoencoder.encode_sparse(part_BD)
        error_O += (part_BO - autoencoder.decode_sparse(codes, part_BD)).double().square().sum(0)
        active += float((codes.value_BK > 0).sum())
    variance_O = (target_BO - target_BO.mean(0)).double().square().sum(0)
    return Measured(error_O, variance_O, active / len(x_BD), len(x_BD))


def about_activations(state: Mapping[str, torch.Tensor], names: Sequence[str]) -> dict[str, Any]:
    """What was measured of the activations before training, of a training module's state; names of genes."""
    limit = float(state["norm_limit"])
    most_G = state["outliers"].sort(descending=True, stable=True)
    return {
        "tokens": int(state["statistics_tokens"]),
        "gamma": float(state["gamma"]),
        "outlier_dims": state["outlier_dims"].tolist(),
        "median_norm": float(state["median_norm"]),
        "norm_limit": limit if limit < NO_LIMIT else None,
        "outlier_tokens": int(state["outliers"].sum()),
        "outlier_genes": {
            names[gene]: n
            for n, gene in zip(most_G.values[:LISTED_GENES].tolist(), most_G.indices.tolist(), strict=False)
            if n
        },
    }


def layer_of(hook: str) -> int | None:
    """The block a hook point belongs to: resid_post_6 -> 6; None for embed and final."""
    *_, last = hook.split("_")
    return int(last) if last.isdigit() else None
