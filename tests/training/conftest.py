"""Fixtures of the training tests."""

from tests.training.inputs import cache, cells, encoder_directory

__all__ = ["cache", "cells", "encoder_directory"]
