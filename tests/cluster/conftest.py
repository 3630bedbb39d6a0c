"""Fixtures of the cluster's tests."""

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.crds import definitions


@pytest.fixture(scope="session")
def schemas(shared: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What an API server with KubeRay knows: (apiVersion, kind) -> strict schema."""
    return definitions(shared / "golden" / "kuberay_crds")
