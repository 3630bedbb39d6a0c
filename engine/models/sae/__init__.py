"""Sparse autoencoders: any SAELens directory in, a SAELens directory out, and their training."""

from engine.models.sae.calibrate import calibrate_threshold
from engine.models.sae.checkpoint import load, save
from engine.models.sae.config import SAEConfig
from engine.models.sae.folds import export_form, fold_decoder_norm, fold_input_scaling
from engine.models.sae.initialise import InitOptions, create, fit_encoder_scale, initialise
from engine.models.sae.model import SAE
from engine.models.sae.objective import SparseLoss, TrainingModule, objective
from engine.models.sae.options import ObjectiveOptions
from engine.models.sae.parallelise import FeatureShard
from engine.models.sae.piecewise import export_piecewise
from engine.models.sae.selection import SparseCodes
from engine.models.sae.shards import export_shards, load_shards, save_shards

__all__ = [
    "SAE",
    "FeatureShard",
    "InitOptions",
    "ObjectiveOptions",
    "SAEConfig",
    "SparseCodes",
    "SparseLoss",
    "TrainingModule",
    "calibrate_threshold",
    "create",
    "export_form",
    "export_piecewise",
    "export_shards",
    "fit_encoder_scale",
    "fold_decoder_norm",
    "fold_input_scaling",
    "initialise",
    "load",
    "load_shards",
    "objective",
    "save",
    "save_shards",
]
