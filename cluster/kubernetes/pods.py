"""Pod templates: one container, no root, limits that equal requests, and why each setting is there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cluster.site import KubernetesSite, Site
from cluster.submission import Machine, Submission
from storage.errors import InputError

Document = dict[str, Any]

# Ray lets a node finish what it has for the first; Kubernetes ends the pod after the second.
_DRAIN_SECONDS, _GRACE_SECONDS = 60, 90
_AGENT_PORT, DASHBOARD_PORT, METRICS_PORT, SERVE_PORT = 52365, 8265, 8080, 8000
_KEYS_PATH = "/etc/syncytium"
API_KEYS = f"{_KEYS_PATH}/keys"
# Ray's own share of memory for its object store, which lies in /dev/shm.
_OBJECT_STORE_SHARE = 0.3


@dataclass(frozen=True)
class Role:
    """What one pod is: `head`, `worker` or `submitter`, on which machine."""

    name: str
    machine: Machine
    spot: bool = False

    @property
    def is_ray(self) -> bool:
        return self.name != "submitter"


def labels(submission: Submission) -> dict[str, str]:
    """By which the pods of one submission know each other; `app.kubernetes.io/name` is KubeRay's own."""
    return {"syncytium/submission": submission.name}


def template(submission: Submission, site: Site, role: Role) -> Document:
    """The pod template of a role. Raises InputError when there is no image, or none by digest."""
    kubernetes = site.kubernetes
    spec: Document = {
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": kubernetes.user,
            "runAsGroup": kubernetes.user,
            "fsGroup": kubernetes.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    # The head's autoscaler asks the API server for pods; nobody else asks it anything.
    if role.name != "head":
        spec["automountServiceAccountToken"] = False
    if role.name == "submitter":
        spec["restartPolicy"] = "Never"
    if kubernetes.service_account:
        spec["serviceAccountName"] = kubernetes.service_account
    if kubernetes.pull_secret:
        spec["imagePullSecrets"] = [{"name": kubernetes.pull_secret}]
    spec |= _placement(kubernetes, role)
    spec["containers"] = [_container(submission, site, role)]
    if role.is_ray:
        spec["volumes"] = _volumes(submission, kubernetes, role.machine)
    return {
        "metadata": {"labels": {**labels(submission), "syncytium/role": role.name}},
        "spec": spec,
    }


def _placement(kubernetes: KubernetesSite, role: Role) -> Document:
    selector = dict(kubernetes.spot if role.spot else kubernetes.on_demand)
    tolerated = [kubernetes.spot_taint] * role.spot + [kubernetes.gpu_taint] * bool(role.machine.gpus)
    placement: Document = {"nodeSelector": selector} if selector else {}
    if tolerated:
        placement["tolerations"] = [
            {"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in tolerated
        ]
    return placement


def _container(submission: Submission, site: Site, role: Role) -> Document:
    kubernetes = site.kubernetes
    container: Document = {
        "name": {"head": "ray-head", "worker": "ray-worker", "submitter": "ray-job-submitter"}[role.name],
        "image": image_of(submission, kubernetes, role.machine),
        "imagePullPolicy": "IfNotPresent",
        "resources": resources(kubernetes, role.machine),
        "securityContext": CONFINED,
    }
    if not role.is_ray:
        return container
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(_DRAIN_SECONDS),
        **site.environment,
        **submission.environment,
    }
    container["env"] = [{"name": name, "value": value} for name, value in variables.items()]
    if kubernetes.bucket_secret:
        container["envFrom"] = [{"secretRef": {"name": kubernetes.bucket_secret}}]
    container["ports"] = _ports(submission, role)
    container |= _probes(submission, role)
    container["volumeMounts"] = _mounts(submission, kubernetes)
    return container


CONFINED: Document = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}


def image_of(submission: Submission, kubernetes: KubernetesSite, machine: Machine) -> str:
    """Of pods on such machines."""
    of_site = kubernetes.cuda_image if machine.gpus and kubernetes.cuda_image else kubernetes.image
    image = submission.image or of_site
    if not image:
        raise InputError("no image: give --image NAME@sha256:..., or kubernetes.image in --site.")
    if "@sha256:" not in image:
        raise InputError(
            f"image {image}: name it by digest (NAME@sha256:...), so that every pod of a run, and of its "
            "retries, runs the same code. `docker buildx imagetools inspect NAME:TAG` prints the digest."
        )
    return image


def resources(kubernetes: KubernetesSite, machine: Machine) -> Document:
    """Limits equal requests: a node that promises the same memory twice kills Ray's workers."""
    amounts = {"cpu": str(machine.cpus), "memory": f"{machine.memory_gib}Gi"}
    if machine.gpus:
        amounts[kubernetes.gpu_resource] = str(machine.gpus)
    return {"requests": amounts, "limits": dict(amounts)}


def _ports(submission: Submission, role: Role) -> list[Document]:
    ports = {"metrics": METRICS_PORT}
    if role.name == "head":
        ports = {"gcs": 6379, "dashboard": DASHBOARD_PORT, "client": 10001, **ports}
    if submission.serving is not None:
        ports["serve"] = SERVE_PORT
    return [{"containerPort": port, "name": name} for name, port in ports.items()]


def _probes(submission: Submission, role: Role) -> Document:
    """Over HTTP: KubeRay's own need wget in the image. The health pages ask for no token."""
    raylet = ("/api/local_raylet_healthz", _AGENT_PORT)
    alive = ("/api/gcs_healthz", DASHBOARD_PORT) if role.name == "head" else raylet
    serves = submission.serving is not None and role.name == "worker"
    ready = ("/-/healthz", SERVE_PORT) if serves else alive
    return {
        "startupProbe": _probe(*alive, period=5, failures=60),
        "livenessProbe": _probe(*alive, period=10, failures=12),
        "readinessProbe": _probe(*ready, period=5, failures=1 if serves else 10),
    }


def _probe(path: str, port: int, period: int, failures: int) -> Document:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _volumes(submission: Submission, kubernetes: KubernetesSite, machine: Machine) -> list[Document]:
    shared_memory = max(1, round(machine.memory_gib * _OBJECT_STORE_SHARE))
    volumes: list[Document] = [
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shared_memory}Gi"}},
        # Ray's sockets and logs: never on a network's file system.
        {"name": "ray", "emptyDir": {}},
    ]
    volumes += [
        {"name": f"shared-{place}", "persistentVolumeClaim": {"claimName": volume.claim}}
        for place, volume in enumerate(kubernetes.volumes)
    ]
    if kubernetes.spill:
        volumes.append(
            {"name": "spill", "ephemeral": {"volumeClaimTemplate": {"spec": _spill_claim(kubernetes)}}}
        )
    if _has_keys(submission, kubernetes):
        volumes.append({"name": "api-keys", "secret": {"secretName": kubernetes.api_keys_secret}})
    return volumes


def _spill_claim(kubernetes: KubernetesSite) -> Document:
    assert kubernetes.spill is not None  # noqa: S101 - for the type checker; the only caller has asked
    claim: Document = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": f"{kubernetes.spill.gib}Gi"}},
    }
    if kubernetes.spill.storage_class:
        claim["storageClassName"] = kubernetes.spill.storage_class
    return claim


def _mounts(submission: Submission, kubernetes: KubernetesSite) -> list[Document]:
    mounts: list[Document] = [
        {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - Ray's object store
        {"name": "ray", "mountPath": "/tmp/ray"},  # noqa: S108 - Ray's own folder
    ]
    for place, volume in enumerate(kubernetes.volumes):
        read_only = volume.read_only or submission.serving is not None
        mounts.append(
            {"name": f"shared-{place}", "mountPath": volume.path, **({"readOnly": True} if read_only else {})}
        )
    if kubernetes.spill:
        mounts.append({"name": "spill", "mountPath": "/spill"})
    if _has_keys(submission, kubernetes):
        mounts.append({"name": "api-keys", "mountPath": _KEYS_PATH, "readOnly": True})
    return mounts


def _has_keys(submission: Submission, kubernetes: KubernetesSite) -> bool:
    return submission.serving is not None and kubernetes.api_keys_secret is not None


def without_gpus(machine: Machine) -> Machine:
    return replace(machine, gpus=0)
