"""The end of training: thresholds fitted on held-out tokens, what the autoencoder is worth, where it is from.

Legend: B tokens of a batch, D width, F features.
"""

from collections.abc import Mapping
from contextlib import closing
from itertools import islice
from typing import Any

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


@torch.no_grad()
def settle(module: SparseTraining, source: ActivationSource, options: TrainingOptions) -> dict[str, Any]:
    """Sets the threshold of BatchTopK and Matryoshka; FVU and L0 on tokens that come after the last step.

    In an epoch that began before the last step ended these have not been trained on. For the process that
    exports, alone.
    """
    autoencoder = module.objective.sae
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module.to(device)
    x_BD = _held_out(module, source, options, device)
    half = max(len(x_BD) // 2, 1)
    if autoencoder.config.architecture in TRAINING_FORMS:
        sae.calibrate_threshold(autoencoder, torch.split(x_BD[:half], ENCODED_TOGETHER))
    measured = _measured(autoencoder, x_BD[half:] if len(x_BD) > 1 else x_BD)
    module.cpu()
    return measured


def _held_out(
    module: SparseTraining, source: ActivationSource, options: TrainingOptions, device: torch.device
) -> torch.Tensor:
    d, width = module.objective.sae.d_in, module.objective.sae.d_sae
    n_tokens = min(HELD_OUT_TOKENS, int(MOST_FLOPS / (2 * d * width)), MOST_BYTES // (4 * d))
    n_tokens = max(2, min(n_tokens, int(source.n_tokens)))
    share = Share(0, 1, options.batch, 1, options.seed)
    with closing(source.batches(options.steps, share, device)) as stream:
        parts = [module.inputs(*batch)[0] for batch in islice(stream, -(-n_tokens // options.batch))]
    return torch.cat(parts)[:n_tokens]


def _measured(autoencoder: sae.SAE, x_BD: torch.Tensor) -> dict[str, Any]:
    error = active = 0.0
    for part_BD in torch.split(x_BD, ENCODED_TOGETHER):
        codes = autoencoder.encode_sparse(part_BD)
        error += float((part_BD - autoencoder.decode_sparse(codes, part_BD)).double().square().sum())
        active += float((codes.value_BK > 0).sum())
    variance = float((x_BD - x_BD.mean(0)).double().square().sum())
    return {
        "reference_fvu": error / max(variance, 1e-30),
        "reference_l0": active / len(x_BD),
        "reference_tokens": len(x_BD),
    }


def about_activations(state: Mapping[str, torch.Tensor], source: ActivationSource) -> dict[str, Any]:
    """What was measured of the activations before training, of a training module's state."""
    limit = float(state["norm_limit"])
    most_G = state["outliers"].sort(descending=True, stable=True)
    names = source.gene_names()
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
