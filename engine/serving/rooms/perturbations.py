"""What a perturbation would do to some cells, with its uncertainty and what simpler rules say.

Legend: G genes of the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.perturbation import baselines
from engine.perturbation.cell_eval import pearson
from engine.perturbation.labels import dose, targets
from engine.perturbation.predictor import Predictor
from engine.serving.problems import Problem
from engine.serving.settings import Settings

# Baselines that decompose the screen at each question, and multiplications that is worth.
_BY_COMPONENTS, _DECOMPOSED = ("nearest_neighbour", "ridge"), 200_000_000


class PerturbationRoom:
    """An ensemble of models around its closed-form prior."""

    def __init__(self, settings: Settings) -> None:
        if settings.perturbation is None:
            raise ValueError("a room of perturbations needs a trained model")
        self._path, self._predictor = settings.perturbation, Predictor.load(settings.perturbation)
        prior = self._predictor.prior
        screened, control_G = prior.screened, np.mean(list(prior.controls.values()), axis=0)
        self._known = baselines.Known(
            screened.delta_PG, screened.targets, screened.contexts, control_G, prior.rows
        )
        is_small = screened.delta_PG.size * len(screened.targets) <= _DECOMPOSED
        self._baselines = [name for name in baselines.NAMES if is_small or name not in _BY_COMPONENTS]

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

    def change(
        self, before_G: npt.NDArray[np.float64], label: str, context: str | None, gene: str | None
    ) -> tuple[float, float]:
        """Predicted change of one gene and its uncertainty, or root mean squares of those of all genes."""
        asked = targets(label, self._predictor.facts.control)
        if not asked:
            raise Problem(400, "no_perturbation", f"{label!r} is the control: nothing would change")
        self._predictor.require_known([asked])
        if gene is not None and gene not in self._predictor.genes:
            raise Problem(404, "no_gene", f"no gene {gene!r} among those the model predicts")
        effects = self._predictor.predict(before_G, [asked], context, [dose(label)])
        both = effects.delta_QG[0], effects.uncertainty_QG[0]
        if gene is None:
            size, uncertainty = (float(np.sqrt(np.mean(np.square(part_G)))) for part_G in both)
        else:
            size, uncertainty = (float(part_G[self._predictor.genes.index(gene)]) for part_G in both)
        return size, uncertainty

    def predict(
        self, before_G: npt.NDArray[np.float64], label: str, context: str | None, most: int
    ) -> dict[str, Any]:
        """Genes that change most, up or down, on log1p of 10,000 counts a cell, beside what the prior and the
        baselines say of them; and how alike all genes' changes are to each baseline's (Pearson correlation).
        """
        asked = targets(label, self._predictor.facts.control)
        if not asked:
            raise Problem(400, "no_perturbation", f"{label!r} is the control: nothing would change")
        warnings = self._predictor.require_known([asked])
        effects = self._predictor.predict(before_G, [asked], context, [dose(label)])
        delta_G, prior_G = effects.delta_QG[0], effects.prior_QG[0]
        guessed = {
            name: baselines.predict(name, self._known, asked, context or "all") for name in self._baselines
        }
        said = {name: guess_G for name, guess_G in guessed.items() if guess_G is not None}
        likeness = {name: pearson(delta_G, guess_G) for name, guess_G in said.items()}
        order = np.argsort(-np.abs(delta_G), kind="stable")[:most]
        return {
            "targets": list(asked),
            "warnings": warnings,
            "trained": "+".join(asked) in self._predictor.facts.trained,
            "likeness": {name: round(value, 4) for name, value in likeness.items() if np.isfinite(value)},
            "genes": [
                {
                    "gene": self._predictor.genes[g],
                    "before": round(float(before_G[g]), 4),
                    "change": round(float(delta_G[g]), 4),
                    "uncertainty": round(float(effects.uncertainty_QG[0][g]), 4),
                    "prior": round(float(prior_G[g]), 4),
                    "baselines": {name: round(float(guess_G[g]), 4) for name, guess_G in said.items()},
                }
                for g in order
            ],
        }
