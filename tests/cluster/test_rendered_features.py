"""What a submission promises is in what it renders, one line for each promise."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.cluster.renderings import GOLDEN


def main_document(name: str) -> dict[str, Any]:
    document: dict[str, Any] = list(yaml.safe_load_all((GOLDEN / name).read_text()))[-1]
    return document


CLUSTER = "spec/rayClusterSpec"
HEAD, GPU_GROUP, READERS = (
    f"{CLUSTER}/{part}" for part in ("headGroupSpec", "workerGroupSpecs/0", "workerGroupSpecs/1")
)
POD = f"{GPU_GROUP}/template/spec"
SERVING = "spec/rayClusterConfig/workerGroupSpecs/0"

KUBERNETES = [
    ("job.yaml", "kind", "RayJob"),
    ("interactive.yaml", "kind", "RayCluster"),
    ("service.yaml", "kind", "RayService"),
    # worker groups of two kinds
    ("job.yaml", f"{GPU_GROUP}/maxReplicas", 8),
    ("job.yaml", f"{POD}/containers/0/resources/limits/nvidia.com~1gpu", "1"),
    ("job.yaml", f"{READERS}/groupName", "reader"),
    # autoscaler
    ("job.yaml", f"{CLUSTER}/enableInTreeAutoscaling", True),
    ("job.yaml", f"{CLUSTER}/autoscalerOptions/version", "v2"),
    # restarts resume, on a new cluster
    ("job.yaml", "spec/backoffLimit", 3),
    ("job.yaml", f"{POD}/nodeSelector", {"karpenter.sh/capacity-type": "spot"}),
    ("job.yaml", f"{POD}/terminationGracePeriodSeconds", 90),
    ("job.yaml", "spec/activeDeadlineSeconds", 172_800),
    # Ray's state outlives its head
    ("interactive.yaml", "spec/gcsFaultToleranceOptions/backend", "redis"),
    ("service.yaml", "spec/rayClusterConfig/gcsFaultToleranceOptions/redisAddress", "redis:6379"),
    # data
    ("job.yaml", f"{GPU_GROUP}/rayStartParams/object-spilling-directory", "/spill"),
    ("job.yaml", f"{POD}/volumes/2/persistentVolumeClaim/claimName", "models"),
    ("job.yaml", f"{POD}/containers/0/envFrom/0/secretRef/name", "bucket"),
    # queue
    ("queued.yaml", "metadata/labels/kueue.x-k8s.io~1queue-name", "cells"),
    # health
    ("job.yaml", f"{HEAD}/template/spec/containers/0/livenessProbe/httpGet/path", "/api/gcs_healthz"),
    ("service.yaml", f"{SERVING}/template/spec/containers/0/readinessProbe/httpGet/path", "/-/healthz"),
    # safety
    ("job.yaml", f"{CLUSTER}/authOptions/mode", "token"),
    ("interactive.yaml", "spec/authOptions/mode", "token"),
    ("service.yaml", "spec/rayClusterConfig/authOptions/mode", "token"),
    ("job.yaml", f"{POD}/securityContext/runAsUser", 1000),
    ("job.yaml", f"{POD}/automountServiceAccountToken", False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "value"), KUBERNETES, ids=lambda part: str(part)[-40:])
def test_on_kubernetes(name: str, path: str, value: Any):
    at: Any = main_document(name)
    for step in path.split("/"):
        # A slash in a key is written ~1, as in JSON pointers.
        at = at[int(step)] if isinstance(at, list) else at[step.replace("~1", "/")]
    assert at == value


SLURM = [
    ("job.sbatch", r"#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=1"),
    ("job.sbatch", r"#SBATCH --gres=gpu:a100:4"),
    ("job.sbatch", r"#SBATCH --requeue"),
    ("job.sbatch", r"#SBATCH --signal=B:USR1@180"),
    ("job.sbatch", r"#SBATCH --open-mode=append"),
    ("job.sbatch", r"\nmodule load cuda/12\.6\nsource /shared/syncytium/\.venv/bin/activate\nulimit"),
    ("job.sbatch", r"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN\n"),
    ("job.sbatch", r"exec ray symmetric-run .*--min-nodes"),
    ("sweep.sbatch", r"#SBATCH --array=0-3"),
    ("sweep.sbatch", r"exec apptainer exec --pid .* ray symmetric-run"),
]


@pytest.mark.parametrize(("name", "line"), SLURM, ids=lambda part: part[-40:])
def test_on_slurm(name: str, line: str):
    assert re.search(line, (GOLDEN / name).read_text())
