"""Fixtures of the annotation tests."""

from tests.retrieval.blood import blood, small_counts

__all__ = ["blood", "small_counts"]
