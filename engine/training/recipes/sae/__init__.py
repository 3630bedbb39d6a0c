"""Training sparse autoencoders on activations, and exporting them as SAELens directories."""

from engine.training.recipes.sae.architectures import ARCHITECTURES, ArchitectureName
from engine.training.recipes.sae.module import SparseTraining
from engine.training.recipes.sae.recipe import SparseRecipe
from engine.training.recipes.sae.statistics import activation_statistics

__all__ = [
    "ARCHITECTURES",
    "ArchitectureName",
    "SparseRecipe",
    "SparseTraining",
    "activation_statistics",
]
