"""What a perturbation would do to some cells, with its uncertainty and what simpler rules say.

Legend: G genes of the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.perturbation.labels import targets
from engine.perturbation.predictor import Predictor
from engine.serving.problems import Problem
from engine.serving.settings import Settings


class PerturbationRoom:
    """An ensemble of models around its closed-form prior."""

    def __init__(self, settings: Settings) -> None:
        if settings.perturbation is None:
            raise ValueError("a room of perturbations needs a trained model")
        self._path, self._predictor = settings.perturbation, Predictor.load(settings.perturbation)

    def facts(self) -> dict[str, Any]:
        facts = self._predictor.facts
        return {
            "perturbation": self._path,
            "n_genes": len(self._predictor.genes),
            "contexts": facts.contexts,
            "trained": facts.trained,
            "held_out": facts.held_out,
            "members": facts.members,
        }

    def genes(self) -> tuple[str, ...]:
        return self._predictor.genes

    def predict(
        self, before_G: npt.NDArray[np.float64], label: str, context: str | None, most: int
    ) -> dict[str, Any]:
        """Genes that change most, up or down, on log1p of 10,000 counts a cell; the prior's and the mean
        effect of all trained perturbations beside the model's.
        """
        asked = targets(label, self._predictor.facts.control)
        if not asked:
            raise Problem(400, "no_perturbation", f"{label!r} is the control: nothing would change")
        warnings = self._predictor.require_known([asked])
        effects = self._predictor.predict(before_G, [asked], context)
        delta_G, prior_G = effects.delta_QG[0], effects.prior_QG[0]
        mean_G = self._predictor.prior.screened.delta_PG.mean(axis=0)
        order = np.argsort(-np.abs(delta_G), kind="stable")[:most]
        return {
            "targets": list(asked),
            "warnings": warnings,
            "trained": "+".join(asked) in self._predictor.facts.trained,
            "genes": [
                {
                    "gene": self._predictor.genes[g],
                    "before": round(float(before_G[g]), 4),
                    "change": round(float(delta_G[g]), 4),
                    "uncertainty": round(float(effects.uncertainty_QG[0][g]), 4),
                    "prior": round(float(prior_G[g]), 4),
                    "mean_perturbation": round(float(mean_G[g]), 4),
                }
                for g in order
            ],
        }
