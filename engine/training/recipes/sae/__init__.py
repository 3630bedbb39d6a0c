"""Training sparse autoencoders on activations, and exporting them as SAELens directories."""

from engine.training.recipes.sae.aligned_recipe import (
    ALIGNED_ARCHITECTURES,
    AlignedArchitecture,
    AlignedRecipe,
)
from engine.training.recipes.sae.architectures import ARCHITECTURES, SAELENS_NAMES, ArchitectureName
from engine.training.recipes.sae.module import SparseTraining
from engine.training.recipes.sae.recipe import SparseRecipe
from engine.training.recipes.sae.statistics import activation_statistics
from engine.training.recipes.sae.sweep import Member, run_sweep

__all__ = [
    "ALIGNED_ARCHITECTURES",
    "ARCHITECTURES",
    "SAELENS_NAMES",
    "AlignedArchitecture",
    "AlignedRecipe",
    "ArchitectureName",
    "Member",
    "SparseRecipe",
    "SparseTraining",
    "activation_statistics",
    "run_sweep",
]
