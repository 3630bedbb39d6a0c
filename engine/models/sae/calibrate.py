"""The threshold that BatchTopK and Matryoshka autoencoders fire above once there is no batch to choose from.

Legend: B tokens of a batch, D input width, N chosen pairs.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from engine.models.errors import ModelError
from engine.models.sae.config import TRAINING_FORMS
from engine.models.sae.model import SAE
from engine.models.sae.selection import Scratch, choose_over_batch
from engine.models.sae.topk_family import encoder_of


@torch.no_grad()
def calibrate_threshold(sae: SAE, batches: Iterable[Tensor], k: float | None = None) -> float:
    """Sets `topk_threshold` so that k features (default: the configuration's) fire on average; returns it.

    batches: held-out activations x_BD, in the units of training. Exact as long as no batch has more than 2k
    active features per token at that threshold: so many of each batch's largest scores are kept. The running
    threshold of training averages the smallest scores of batches instead, which is biased low and noisy.
    """
    if sae.config.architecture not in TRAINING_FORMS:
        raise ModelError(f"a {sae.config.architecture} autoencoder has no running threshold to calibrate")
    k = float(sae.config.k or 0) if k is None else k
    scratch, scores, n_tokens = Scratch(), [], 0
    for x_BD in batches:
        centred_BD = sae.centred(x_BD)
        encoder = encoder_of(sae, "fp32", x_BD.device.type)
        chosen = choose_over_batch(centred_BD, encoder, int(2 * k * len(x_BD)), 2 * k, scratch)
        scores.append(chosen.score_N)
        n_tokens += len(x_BD)
    if not n_tokens:
        raise ModelError("no tokens to calibrate the threshold on")
    sorted_N = torch.cat(scores).double().sort(descending=True).values
    n_active = int(k * n_tokens)
    if n_active >= len(sorted_N):  # fewer positive scores than wanted: all of them may fire
        threshold = torch.zeros((), dtype=torch.float64)
    else:
        threshold = (sorted_N[n_active - 1] + sorted_N[n_active]) / 2
    sae.topk_threshold.copy_(threshold)
    return float(threshold)
