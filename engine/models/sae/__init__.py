"""Sparse autoencoders: any SAELens directory in, a SAELens directory out, and training of TopK ones."""

from engine.models.sae.checkpoint import load, save
from engine.models.sae.config import SAEConfig
from engine.models.sae.model import SAE, create, fold_decoder_norm, fold_input_scaling
from engine.models.sae.objective import SparseLoss, TrainingModule

__all__ = [
    "SAE",
    "SAEConfig",
    "SparseLoss",
    "TrainingModule",
    "create",
    "fold_decoder_norm",
    "fold_input_scaling",
    "load",
    "save",
]
