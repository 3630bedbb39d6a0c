"""How models in training do on what is held out: shown with the curve, and never used to choose anything.

Legend: Q held-out perturbations, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.models import bimamba
from engine.perturbation.cell_eval import pearson
from engine.perturbation.labels import dose
from engine.perturbation.predictor import expected
from engine.perturbation.rank_sum import Array

if TYPE_CHECKING:
    from engine.training.recipes.perturbation.recipe import PerturbationRecipe

# Enough to see where it goes; every judgement predicts all of them.
MOST = 64


def held_out_now(recipe: PerturbationRecipe, models: Sequence[bimamba.PerturbationModel]) -> dict[str, float]:
    """Means over at most 64 held-out perturbations of the members' mean effect, all that they add kept:
    `held_out_pearson_delta` and `held_out_mae`, and those of what the models start from (`_start`).
    """
    measured = recipe.source.measured()
    screen, controls = measured.screen, measured.controls
    groups = recipe.split.validation(screen)
    drawn = np.sort(np.random.default_rng(0).permutation(len(groups))[:MOST])
    found: list[tuple[float, float, float, float]] = []
    for context in sorted({groups[place][0] for place in drawn}):
        labels = [groups[place][1] for place in drawn if groups[place][0] == context]
        targets = [screen.targets(label) for label in labels]
        start_QG = np.tile(controls[context], (len(labels), 1))
        if recipe.uses_prior:
            start_QG = np.maximum(start_QG + recipe.prior.predict(targets, [context] * len(labels)), 0.0)
        named = context if recipe.config.contexts else None
        doses = [dose(label) for label in labels]
        mean_QG = np.mean(
            [expected(model, start_QG, targets, named, recipe.drugs, doses) for model in models], axis=0
        )
        for place, label in enumerate(labels):
            real_G = measured.means[context, label]
            scores = [_scores(side[place], real_G, controls[context]) for side in (mean_QG, start_QG)]
            found.append((*scores[0], *scores[1]))
    names = ("pearson_delta", "mae", "pearson_delta_start", "mae_start")
    means = np.nan_to_num(np.array(found)).mean(axis=0)
    return {f"held_out_{name}": float(value) for name, value in zip(names, means, strict=True)}


def _scores(mean_G: Array, real_G: Array, control_G: Array) -> tuple[float, float]:
    return pearson(mean_G - control_G, real_G - control_G), float(np.abs(mean_G - real_G).mean())
