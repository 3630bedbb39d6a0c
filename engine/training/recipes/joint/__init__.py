"""Training a joint model of cells and texts."""

from engine.training.recipes.joint.features import make_features, require_features
from engine.training.recipes.joint.plan import plan
from engine.training.recipes.joint.presets import PRESETS, Preset
from engine.training.recipes.joint.recipe import JointRecipe
from engine.training.recipes.joint.split import Split, Values

__all__ = [
    "PRESETS",
    "JointRecipe",
    "Preset",
    "Split",
    "Values",
    "make_features",
    "plan",
    "require_features",
]
