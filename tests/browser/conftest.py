"""Fixtures of the browser tests."""

from tests.browser.chromium import chromium
from tests.serving.conftest import doors, full, served

__all__ = ["chromium", "doors", "full", "served"]
