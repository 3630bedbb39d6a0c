"""The real kubectl with what we render: dry-run, applying, and a field that does not exist."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kubernetes import applied
from tests.cluster.api_server import api_server
from tests.cluster.renderings import GOLDEN, RENDERINGS

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")

KUBERNETES = [name for name in RENDERINGS if name.endswith(".yaml")]
# kubectl's own note of what it applied.
NOTE = "kubectl.kubernetes.io/last-applied-configuration"


@pytest.fixture
def created(
    schemas: dict[tuple[str, str], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, dict[str, Any]]]:
    """What the server was sent, by path."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("HOME", str(tmp_path))  # kubectl keeps there what it learnt of a server
    with api_server(tmp_path / "kubeconfig", schemas) as objects:
        yield objects


def without_note(document: dict[str, Any]) -> dict[str, Any]:
    metadata = dict(document["metadata"])
    annotations = {key: text for key, text in metadata.pop("annotations", {}).items() if key != NOTE}
    return {**document, "metadata": metadata | ({"annotations": annotations} if annotations else {})}


@pytest.mark.parametrize("name", KUBERNETES)
def test_the_server_gets_what_was_reviewed(
    name: str, created: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    manifest = (GOLDEN / name).read_text()
    documents = list(yaml.safe_load_all(manifest))
    dry = subprocess.run(
        ["kubectl", "apply", "--dry-run=client", "--validate=strict", "--output=json", "--filename=-"],
        input=manifest,
        capture_output=True,
        text=True,
        check=True,
    )
    shown = json.loads(dry.stdout)
    assert [without_note(one) for one in shown.get("items", [shown])] == documents
    assert not created

    applied.apply(manifest)
    assert list(map(without_note, created.values())) == documents
    assert capsys.readouterr().out.count(" created\n") == len(documents)
    applied.apply(manifest)
    assert capsys.readouterr().out.count(" unchanged\n") == len(documents)


def test_a_field_that_does_not_exist(created: dict[str, dict[str, Any]]):
    job = list(yaml.safe_load_all((GOLDEN / "job.yaml").read_text()))[-1]
    job["spec"]["shutdownAfterJobFinish"] = True
    with pytest.raises(RuntimeError, match="shutdownAfterJobFinish"):
        applied.apply(yaml.safe_dump(job))
    assert not created
