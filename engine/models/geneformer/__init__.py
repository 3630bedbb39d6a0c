"""Geneformer: a BERT over the genes of a cell, ranked by how far each lies above its usual expression."""

from engine.models.geneformer.checkpoint import load, save
from engine.models.geneformer.config import PRESETS, GeneformerConfig
from engine.models.geneformer.create import create
from engine.models.geneformer.model import GeneformerEncoder
from engine.models.geneformer.objective import TrainingModule
from engine.models.geneformer.tokenise import GeneformerTokeniser

__all__ = [
    "PRESETS",
    "GeneformerConfig",
    "GeneformerEncoder",
    "GeneformerTokeniser",
    "TrainingModule",
    "create",
    "load",
    "save",
]
