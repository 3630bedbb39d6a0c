"""The hardest baseline: an autoencoder whose decoder stays as it was drawn and only the encoder learns.

Its features are random directions, yet it reconstructs and even "interprets" well (arXiv 2602.14111: 0.87
against 0.90): what a trained autoencoder does no better than this one says nothing about its features.

Shape legend: B tokens of a batch, D width, F features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from engine.models import sae

BATCH_TOKENS = 2048
WARM_UP, DECAY_FROM = 0.05, 0.8
CLIP_NORM = 1.0
DEAD_SHARE = 0.1
"""Share of the run after which a silent feature is revived by AuxK."""


def train_frozen(
    autoencoder: sae.SAE, batches: Iterator[torch.Tensor], steps: int, mean_D: torch.Tensor, scale: float
) -> sae.SAE:
    """Trains encoder and biases on raw activations x_BD and folds mean and scale in; the decoder's directions
    stay. Learning rate and schedule are those of `train-sae`; the same batches give the same weights."""
    module = sae.TrainingModule(autoencoder, sae.ObjectiveOptions())
    learned = [p for name, p in autoencoder.named_parameters() if name != "W_dec"]
    rate = 2e-4 * math.sqrt(16384 / autoencoder.d_sae)
    optimiser = torch.optim.Adam(learned, lr=rate, eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate_share(step, steps))
    silent_F = torch.zeros(autoencoder.d_sae, dtype=torch.int64, device=mean_D.device)
    dead_after = max(int(DEAD_SHARE * steps), 1)
    for _ in range(steps):
        x_BD = (next(batches).to(mean_D) - mean_D) * scale
        out = module(x_BD, silent_F >= dead_after)
        optimiser.zero_grad()
        autoencoder.W_dec.grad = None
        (out.loss / autoencoder.d_in).backward()
        torch.nn.utils.clip_grad_norm_(learned, CLIP_NORM)
        optimiser.step()
        schedule.step()
        silent_F = torch.where(out.fired_F, 0, silent_F + 1)
    return sae.fold_input_scaling(autoencoder.eval(), mean_D, scale)


def _rate_share(step: int, steps: int) -> float:
    """Linear warm-up, constant, then linear to 0."""
    warm = min(1.0, (step + 1) / max(WARM_UP * steps, 1))
    return warm * min(1.0, (steps - step) / max((1 - DECAY_FROM) * steps, 1))
