"""Fixtures of the jobs' tests."""

from tests.training.aligned_inputs import two_hooks, two_models
from tests.training.inputs import cache, cells, encoder_directory

__all__ = ["cache", "cells", "encoder_directory", "two_hooks", "two_models"]
