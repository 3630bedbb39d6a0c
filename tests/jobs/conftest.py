"""Fixtures of the jobs' tests."""

from tests.training.aligned_inputs import two_hooks, two_models
from tests.training.inputs import cache, cells, encoder_directory
from tests.training.joint_inputs import cell_features, cell_tower, donor_cells, text_tower

__all__ = [
    "cache",
    "cell_features",
    "cell_tower",
    "cells",
    "donor_cells",
    "encoder_directory",
    "text_tower",
    "two_hooks",
    "two_models",
]
