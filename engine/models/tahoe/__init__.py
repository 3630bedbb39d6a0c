"""Tahoe-x1: a transformer over (gene, binned count) tokens with a cell token."""

from engine.models.tahoe.checkpoint import load, save
from engine.models.tahoe.config import PRESETS, TahoeConfig
from engine.models.tahoe.create import create
from engine.models.tahoe.model import TahoeEncoder
from engine.models.tahoe.objective import TrainingModule
from engine.models.tahoe.tokenise import TahoeTokeniser

__all__ = [
    "PRESETS",
    "TahoeConfig",
    "TahoeEncoder",
    "TahoeTokeniser",
    "TrainingModule",
    "create",
    "load",
    "save",
]
