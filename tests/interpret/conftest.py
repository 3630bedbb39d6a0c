"""Fixtures of the interpretation tests."""

from tests.interpret.inputs import place

__all__ = ["place"]
