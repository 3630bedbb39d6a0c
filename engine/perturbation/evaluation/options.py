"""What an evaluation is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from engine.perturbation import baselines
from engine.perturbation.normalise import DEPTH


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """baselines: names of `baselines.NAMES` and `replicate` that stand beside the prediction. depth: counts a
    cell is scaled to before log1p. differential: whether genes are tested, which takes most of the time.
    distance_cells: cells of a group that E-distances are taken of, all their pairs; 0: none, no clusters.
    """

    baselines: tuple[str, ...] = (*baselines.NAMES, baselines.REPLICATE)
    depth: float = DEPTH
    differential: bool = True
    distance_cells: int = 1000
    seed: int = 0
