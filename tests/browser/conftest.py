"""Fixtures of the browser tests."""

from tests.browser.chromium import chromium
from tests.serving.conftest import doors, served

__all__ = ["chromium", "doors", "served"]
