"""Training a model of what perturbations do, on a cell store of a screen."""

from engine.training.recipes.perturbation.recipe import PerturbationRecipe, plan
from engine.training.recipes.perturbation.split import Split, SplitBy

__all__ = ["PerturbationRecipe", "Split", "SplitBy", "plan"]
