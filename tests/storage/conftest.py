"""The three kinds of place a dataset can live in: local disk, memory, and an S3 server on this machine."""

import uuid
from pathlib import Path

import pytest

from storage.locations import Location


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A new, empty location of each kind in turn."""
    if request.param == "local":
        return Location.of(tmp_path / "place")
    if request.param == "memory":
        return Location.of(f"memory://{uuid.uuid4().hex}/place")
    return Location.of(f"{request.getfixturevalue('object_store').url}/{uuid.uuid4().hex}")


@pytest.fixture(params=["local", "memory"])
def near_place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """The quick ones, for tests of a format rather than of the place it lies in."""
    if request.param == "local":
        return Location.of(tmp_path / "place")
    return Location.of(f"memory://{uuid.uuid4().hex}/place")
