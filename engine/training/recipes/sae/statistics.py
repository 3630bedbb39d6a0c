"""Mean and scale of activations: what is measured before a sparse autoencoder is trained on them.

Legend: B tokens of a batch, D width.
"""

import math

import torch
import torch.distributed as dist

from engine.training.activation_sources import ActivationSource
from engine.training.recipe import Share

# Enough for a mean and a scale to three digits at any width we meet (specs/sae.md section 5).
STATISTICS_TOKENS = 200_000


def activation_statistics(
    source: ActivationSource, share: Share, device: torch.device
) -> tuple[torch.Tensor, float]:
    """Mean of the activations [D] and the factor that brings their centred RMS norm to sqrt(D). Collective.

    Centring is not optional: with a mean ten times the spread, 99 % of the features of a TopK autoencoder
    with a zero bias never fire (specs/sae.md section 5). Sums are float64: the mean may dwarf the spread.
    """
    total_D = torch.zeros(source.width, dtype=torch.float64, device=device)
    squares = torch.zeros((), dtype=torch.float64, device=device)
    n_batches = math.ceil(STATISTICS_TOKENS / (share.micro_batch * share.world))
    stream = source.batches(0, share, device)
    for _ in range(n_batches):
        x_BD = next(stream).double()
        total_D += x_BD.sum(0)
        squares += x_BD.square().sum()
    n_tokens = n_batches * share.micro_batch * share.world
    if dist.is_initialized():
        dist.all_reduce(total_D, group=share.group)
        dist.all_reduce(squares, group=share.group)
    # Not before all workers have their sums: the first one's stream may be the source of the others'.
    stream.close()
    mean_D = total_D / n_tokens
    variance = float(squares / n_tokens - mean_D.square().sum())
    scale = math.sqrt(source.width / variance) if variance > 0 else 1.0
    return mean_D.float().cpu(), scale
