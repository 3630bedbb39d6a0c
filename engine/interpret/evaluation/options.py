"""What decides the numbers of an evaluation beside its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.interpret.evaluation.baselines import BASELINES
from engine.interpret.evaluation.frozen_decoder import BATCH_TOKENS

MOST_FROZEN_STEPS = 1000
"""Two million tokens: at 512 x 16,384 ten minutes on a core."""


@dataclass(frozen=True)
class EvaluationOptions:
    """tokens: of whole cells, about so many are looked at; None for all. probe_cells: cells with a label that
    probes are trained and tested on. downstream_cells: cells that go through the encoder. frozen_steps: of
    2,048 tokens, for the frozen decoder. baselines: in the order of `BASELINES`.
    """

    tokens: int | None = 2_000_000
    probe_cells: int = 4096
    downstream_cells: int = 512
    frozen_steps: int = 500
    seed: int = 0
    baselines: tuple[str, ...] = BASELINES


def default_frozen_steps(metadata: Mapping[str, Any]) -> int:
    """As many tokens as the autoencoder was trained on, as far as its provenance says so and time allows."""
    tokens = metadata.get("training_tokens") or MOST_FROZEN_STEPS * BATCH_TOKENS
    return max(1, min(int(tokens) // BATCH_TOKENS, MOST_FROZEN_STEPS))
