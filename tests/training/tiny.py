"""The smallest recipe: a linear autoencoder with dropout and a counter. Exercises the loop, not a model."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import nn

from engine.models.sae.parallelise import ALONE, FeatureShard
from engine.training.options import TrainingOptions
from engine.training.recipe import Batch, Share


class TinyLoss(NamedTuple):
    loss: torch.Tensor
    metrics: dict[str, torch.Tensor]


class TinyModule(nn.Module):
    """[width] -> [hidden] -> [width]; counts its forward passes in a buffer that takes part in the loss."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("offset", torch.zeros(width))

    def forward(self, batch: Batch) -> TinyLoss:
        x = batch["x"] - self.offset
        self.passes += 1
        hidden = self.dropout(torch.relu(self.encode(x)))
        loss = ((self.decode(hidden) - x) ** 2).mean() * (1 + 1e-3 * self.passes)
        return TinyLoss(loss, {"active": (hidden > 0).float().mean()})


@dataclass(frozen=True)
class TinyRecipe:
    """Random vectors by position in the stream; kills its process once at `kill_at`, if asked to."""

    width: int = 16
    hidden: int = 40
    dropout: float = 0.1
    kill_at: int | None = None
    """Position at which the worker whose share holds it kills itself, unless `kill_once` exists."""
    kill_once: str = ""
    seconds: float = 0.0
    """How long a batch takes to make."""
    actors: int = 0

    def lineage(self) -> dict[str, Any]:
        return {"width": self.width, "hidden": self.hidden, "dropout": self.dropout}

    def build(self, seed: int, shard: FeatureShard = ALONE) -> nn.Module:
        return TinyModule(self.width, self.hidden, self.dropout)

    def prepare(self, module: nn.Module, share: Share, device: torch.device) -> None:
        assert isinstance(module, TinyModule)
        module.offset.fill_(0.25)

    def batches(
        self, module: nn.Module, start_step: int, share: Share, device: torch.device
    ) -> Iterator[Batch]:
        for start, stop in share.ranges(start_step):
            rows = [
                torch.randn(self.width, generator=torch.Generator().manual_seed(p))
                for p in range(start, stop)
            ]
            if (
                self.kill_at is not None
                and start <= self.kill_at < stop
                and not Path(self.kill_once).exists()
            ):
                Path(self.kill_once).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.seconds)
            yield {"x": torch.stack(rows).to(device)}

    def tokens(self, batch: Batch) -> int:
        return len(batch["x"])

    def export(self, state: Mapping[str, torch.Tensor], directory: Path, options: TrainingOptions) -> None:
        module = TinyModule(self.width, self.hidden, self.dropout)
        module.load_state_dict(dict(state))
        save_file(
            {name: tensor.contiguous() for name, tensor in state.items()}, directory / "model.safetensors"
        )
        (directory / "config.json").write_text("{}")
