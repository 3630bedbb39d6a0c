"""In-silico perturbation: what deleting or overexpressing genes does to cells in the eyes of an encoder."""

from engine.interpret.perturbing.edits import KINDS, Perturbation, TokenEditor
from engine.interpret.perturbing.goal import States

__all__ = ["KINDS", "Perturbation", "States", "TokenEditor"]
