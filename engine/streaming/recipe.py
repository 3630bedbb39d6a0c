"""How cells are encoded: what changes values, and what changes only speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.streaming.packing import BATCH_TOKENS

if TYPE_CHECKING:  # PyTorch, which not every actor of a stream needs
    from engine.models import Precision


@dataclass(frozen=True)
class Recipe:
    """What changes values, beside the product. All of it is lineage.

    max_tokens: tokens kept of a longer cell. precision: what the encoder computes in, "fp32" or "bf16".
    seed: of the sample of long cells. batch_tokens: budget of a packed batch (last bits depend on shapes).
    tensor_parallel: devices that share one encoder (last bits depend on the order of their sums).
    """

    max_tokens: int | None
    precision: Precision = "fp32"
    seed: int = 0
    batch_tokens: int = BATCH_TOKENS
    tensor_parallel: int = 1


@dataclass(frozen=True)
class Workers:
    """What changes speed only.

    address: of the Ray to join; None for the one we are in, or an embedded one. actors: at most so many
    encoders; None for as many as fit the GPUs, or the CPUs where there are none, and on a cluster with an
    autoscaler for as many as it brings up. threads: CPU threads of each encoder, or of each process of one.
    fused: read and tokenise in the encoder's own process instead of in tasks that feed it; None for wherever
    encoders run on CPUs, since encoding is then nearly all of the work and fewer processes need less memory.
    """

    address: str | None = None
    actors: int | None = None
    threads: int = 1
    fused: bool | None = None
