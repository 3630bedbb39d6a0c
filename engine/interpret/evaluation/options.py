"""What decides the numbers of an evaluation beside its inputs."""

from __future__ import annotations

from dataclasses import dataclass

from engine.interpret.evaluation.baselines import BASELINES


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
