"""Fixtures of the captions' tests."""

from tests.training.joint_inputs import donor_cells

__all__ = ["donor_cells"]
