"""SAELens' own trainer, as installed and with its defaults, on batches we hand it."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    SAETrainer,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import LoggingConfig, SAETrainerConfig

CLASSES: dict[str, tuple[Any, Any]] = {
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
}


def train_saelens(
    arch: str,
    batches: Iterator[torch.Tensor],
    output: Path,
    *,
    width: int,
    k: int,
    steps: int,
    batch: int,
    **settings: Any,
) -> Path:
    """The directory it exports for inference. settings: what is not left at its default.

    The learning rate it would end at has to be given, but is not used: the default schedule is constant.
    """
    torch.manual_seed(0)
    batches = iter(batches)
    first = next(batches)
    kind, config = CLASSES[arch]
    model = kind(config(d_in=first.shape[1], d_sae=width, k=k))
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=steps * batch,
            train_batch_size_samples=batch,
            lr_end=3e-5,
            logger=LoggingConfig(log_to_wandb=False),
            **settings,
        ),
        model,
        _again(first, islice(batches, steps)),
    )
    trainer.fit()
    model.save_inference_model(str(output))
    return output


def _again(first: torch.Tensor, rest: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    yield first
    yield from rest
