"""The three kinds of place a dataset can live in: local disk, memory, and an S3 server on this machine."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from storage.locations import Location


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """URL of a bucket in a moto server; the environment points s3fs at it while the fixture lives."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3", use_listings_cache=False).mkdir("syncytium")
    yield "s3://syncytium"
    patch.undo()
    server.stop()


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A new, empty location of each kind in turn."""
    if request.param == "local":
        return Location.of(tmp_path / "place")
    if request.param == "memory":
        return Location.of(f"memory://{uuid.uuid4().hex}/place")
    return Location.of(f"{request.getfixturevalue('s3_bucket')}/{uuid.uuid4().hex}")


@pytest.fixture(params=["local", "memory"])
def near_place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """The quick ones, for tests of a format rather than of the place it lies in."""
    if request.param == "local":
        return Location.of(tmp_path / "place")
    return Location.of(f"memory://{uuid.uuid4().hex}/place")
