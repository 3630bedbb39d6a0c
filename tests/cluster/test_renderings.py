"""What `submit --dry-run` prints: as it was read and found right, and valid where there is a definition."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

from cluster.kubernetes.documents import RAY_VERSION
from engine.serving.settings import Settings
from storage.errors import InputError
from tests.cluster.crds import problems
from tests.cluster.renderings import GOLDEN, RENDERINGS, rendered
from tests.conftest import REPOSITORY

KUBERNETES = [name for name in RENDERINGS if name.endswith(".yaml")]
SLURM = [name for name in RENDERINGS if name.endswith(".sbatch")]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((GOLDEN / name).read_text()))


@pytest.mark.parametrize("name", RENDERINGS)
def test_as_reviewed(name: str):
    assert rendered(name) == (GOLDEN / name).read_text()


@pytest.mark.parametrize("name", KUBERNETES)
def test_definitions_know_every_field(name: str, schemas: dict[tuple[str, str], dict[str, Any]]):
    for document in documents(name):
        assert problems(document, schemas) == []


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ((), "shutdownAfterJobFinish", True),
        (("rayClusterSpec",), "rayVersion", 2.6),
        (("rayClusterSpec", "headGroupSpec"), "rayStartParams", {"num-cpus": 0}),
        (("rayClusterSpec", "headGroupSpec", "template", "spec"), "tolerations", [{"keys": "spot"}]),
        (
            ("rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0),
            "resources",
            {"limit": {}},
        ),
    ],
)
def test_definitions_refuse_what_would_be_dropped(
    place: tuple[Any, ...], key: str, value: Any, schemas: dict[tuple[str, str], dict[str, Any]]
):
    job = copy.deepcopy(documents("job.yaml")[-1])
    part = job["spec"]
    for step in place:
        part = part[step]
    part[key] = value
    assert len(problems(job, schemas)) == 1


@pytest.mark.parametrize("name", SLURM)
def test_scripts_are_bash(name: str):
    checked = subprocess.run(["bash", "-n", GOLDEN / name], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def every_pod() -> list[dict[str, Any]]:
    """Pod templates of all renderings, wherever they hang."""
    found: list[dict[str, Any]] = []

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            if "containers" in part:
                found.append(part)
            for inner in part.values():
                walk(inner)
        elif isinstance(part, list):
            for inner in part:
                walk(inner)

    for name in KUBERNETES:
        walk(documents(name))
    return found


def test_pods_are_confined_pinned_and_bounded():
    pods = every_pod()
    assert len(pods) == 11  # a head and its workers each; two jobs have a submitter, one has readers
    for pod in pods:
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "@sha256:" in container["image"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == {
            volume["name"] for volume in pod.get("volumes", [])
        }


def test_the_head_stays_and_works_on_nothing():
    (cluster,) = [document["spec"]["rayClusterSpec"] for document in documents("job.yaml")[-1:]]
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["template"]["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}
    spot = cluster["workerGroupSpecs"][0]["template"]["spec"]
    assert spot["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
    assert {toleration["key"] for toleration in spot["tolerations"]} == {"spot", "nvidia.com/gpu"}


def test_a_queue_admits_all_nodes_at_once():
    job = documents("queued.yaml")[-1]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "cells"
    assert "enableInTreeAutoscaling" not in job["spec"]["rayClusterSpec"]
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (4, 4, 4)


def test_a_service_is_the_application_that_exists(tmp_path: Path):
    config = ServeDeploySchema.model_validate(
        yaml.safe_load(documents("service.yaml")[-1]["spec"]["serveConfigV2"])
    )
    (served,) = config.applications
    assert Settings.model_validate(served.args) == Settings(
        index="/cells/index", cells="/cells/store", replicas=2, api_keys="/etc/syncytium/keys"
    )
    # As Ray Serve calls it: with the mapping of the file. It gets as far as opening the index.
    with pytest.raises(InputError, match=str(tmp_path)):
        call_user_app_builder_with_args_if_necessary(
            import_attr(served.import_path), {**served.args, "index": str(tmp_path)}
        )


def test_images_and_ray_are_of_one_version():
    assert f"ray=={RAY_VERSION}" in (REPOSITORY / "constraints.txt").read_text()
