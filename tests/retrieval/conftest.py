"""Fixtures of the retrieval tests."""

from tests.storage.conftest import near_place

__all__ = ["near_place"]
