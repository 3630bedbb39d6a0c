"""Mamba blocks, and a model of what perturbations do to expression, in plain PyTorch.

from engine.models import bimamba
config = bimamba.PerturbationConfig(n_genes=len(genes), head="linear")
model = bimamba.create(config, genes, positions=table)            # or bimamba.load(directory)
conditions = bimamba.Conditions.of([model.target_ids(["STAT1"])])
prediction = model(basal_BG, conditions)                          # .mean_BG, .delta_BG
"""

from engine.models.bimamba.bidirectional import BiMamba
from engine.models.bimamba.checkpoint import load, save
from engine.models.bimamba.conditions import Conditions
from engine.models.bimamba.config import PerturbationConfig, original
from engine.models.bimamba.create import create
from engine.models.bimamba.heads import Prediction, negative_binomial_loss
from engine.models.bimamba.mamba import Mamba1, Mamba2
from engine.models.bimamba.memory import IN_WORK, activation_terms, parameter_count
from engine.models.bimamba.model import PerturbationModel
from engine.models.bimamba.objective import TrainingModule

__all__ = [
    "IN_WORK",
    "BiMamba",
    "Conditions",
    "Mamba1",
    "Mamba2",
    "PerturbationConfig",
    "PerturbationModel",
    "Prediction",
    "TrainingModule",
    "activation_terms",
    "create",
    "load",
    "negative_binomial_loss",
    "original",
    "parameter_count",
    "save",
]
