"""Which checkpoint is the best one, by held-out examples, and when more steps would not help."""

from dataclasses import dataclass, field

import torch
from torch import nn

from engine.training.metrics import read_metrics
from engine.training.recipe import SCORE, Judged, Recipe, Share
from engine.training.sharding import Worker
from storage.locations import Location


@dataclass
class Judge:
    """Judgements of one run so far: score by number of steps done. The same on every worker."""

    recipe: Judged
    scores: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, output: Location, next_step: int, worker: Worker) -> "Judge | None":
        """Of a recipe that judges, with what was found before `next_step`; None of others. Collective."""
        if not isinstance(recipe, Judged):
            return None
        return cls(recipe, worker.agree(_scores_before(output, next_step) if worker.leads else {}))

    def is_due(self, steps: int) -> bool:
        """Whether to judge after so many steps."""
        return steps % self.recipe.judge_every == 0

    def judge(self, module: nn.Module, share: Share, device: torch.device, steps: int) -> dict[str, float]:
        """The recipe's measures of the module after so many steps. Collective."""
        found = self.recipe.judge(module, share, device)
        if SCORE in found:
            self.scores[steps] = found[SCORE]
        return found

    @property
    def best_step(self) -> int | None:
        """Steps done at the best judgement, the first of equal ones; None without any."""
        return max(self.scores, key=lambda step: (self.scores[step], -step), default=None)

    @property
    def has_enough(self) -> bool:
        """Whether the last `patience` judgements were no better than one before them."""
        best = self.best_step
        since = sum(step > best for step in self.scores) if best is not None else 0
        return 0 < self.recipe.patience <= since


def _scores_before(output: Location, next_step: int) -> dict[int, float]:
    table = read_metrics(output) if next_step else None
    if table is None or SCORE not in table.column_names:
        return {}
    rows = table.select(["step", SCORE]).to_pylist()
    return {row["step"] + 1: row[SCORE] for row in rows if row[SCORE] is not None and row["step"] < next_step}
