"""What a training run will need before it starts: memory, traffic and time, from sizes alone."""

from engine.training.plan.hardware import H200, Hardware
from engine.training.plan.perturbation import of_perturbation
from engine.training.plan.sae import of_sae
from engine.training.plan.table import Plan, Transfer

__all__ = ["H200", "Hardware", "Plan", "Transfer", "of_perturbation", "of_sae"]
