"""A submission as KubeRay's resources: RayJob for jobs, RayCluster to work on, RayService to serve.

Checked against the Custom Resource Definitions of KubeRay v1.7.0 in tests/cluster.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from cluster.kubernetes.network import network_policy
from cluster.kubernetes.pods import (
    API_KEYS,
    CONFINED,
    SERVE_PORT,
    Document,
    Role,
    labels,
    template,
    without_gpus,
)
from cluster.site import KubernetesSite, Site
from cluster.submission import LONGEST_NAME, Machine, Submission, module_command
from storage.errors import InputError

# The one that constraints.txt pins: client, image and cluster must be of one version.
RAY_VERSION = "2.60.0"
_SUBMITTER = Machine(cpus=1, gpus=0, memory_gib=1)
# Image pulls of 10 GB and machines that have yet to start; not how long a queue may take.
_START_SECONDS = 3600


def render(submission: Submission, site: Site) -> str:
    """All documents, as YAML. Raises InputError for what cannot be applied."""
    return "---\n".join(
        yaml.dump(document, Dumper=_Readable, sort_keys=False, width=110)
        for document in documents(submission, site)
    )


def documents(submission: Submission, site: Site) -> list[Document]:
    """What is applied, in this order; the resource that runs a command, and is followed, is the last."""
    if submission.serving is not None:
        return [network_policy(submission, site.kubernetes), _service(submission, site)]
    if not submission.commands:
        return [network_policy(submission, site.kubernetes), _interactive(submission, site)]
    rendered = []
    for one in one_by_one(submission):
        rendered += [network_policy(one, site.kubernetes), _job(one, site)]
    return rendered


def one_by_one(submission: Submission) -> list[Submission]:
    """A sweep as jobs of their own, `name-0`, `name-1`, ...; each gets a cluster and fails alone."""
    if len(submission.commands) == 1:
        return [submission]
    longest = f"{submission.name}-{len(submission.commands) - 1}"
    if len(longest) > LONGEST_NAME:
        raise InputError(f"--name {submission.name}: {longest} has more than {LONGEST_NAME} characters.")
    return [
        replace(submission, name=f"{submission.name}-{place}", commands=(command,))
        for place, command in enumerate(submission.commands)
    ]


def _job(submission: Submission, site: Site) -> Document:
    kubernetes = site.kubernetes
    queue = submission.queue or kubernetes.queue
    spec: Document = {
        "entrypoint": shlex.join(module_command(submission.commands[0])),
        # The sidecar mode ties the job to the head's pod (kuberay #4285).
        "submissionMode": "K8sJobMode",
        "submitterConfig": {"backoffLimit": 5},
        "submitterPodTemplate": template(submission, site, Role("submitter", _SUBMITTER)),
        # Each retry is a new cluster: the job resumes from what is committed. The head's own fault tolerance
        # would not save a RayJob (kuberay #4025).
        "backoffLimit": submission.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
    }
    if submission.time_limit_seconds:
        spec["activeDeadlineSeconds"] = submission.time_limit_seconds
    if not queue:
        spec["preRunningDeadlineSeconds"] = _START_SECONDS
    spec["rayClusterSpec"] = _cluster(submission, site, scales=_scales(submission, kubernetes))
    return _resource("RayJob", submission, kubernetes, spec, queue)


def _interactive(submission: Submission, site: Site) -> Document:
    kubernetes = site.kubernetes
    if submission.time_limit_seconds:
        raise InputError("--time-limit: a cluster to work on stays until it is deleted; leave it out.")
    spec = _cluster(submission, site, scales=_scales(submission, kubernetes)) | _fault_tolerance(kubernetes)
    return _resource("RayCluster", submission, kubernetes, spec, submission.queue or kubernetes.queue)


def _service(submission: Submission, site: Site) -> Document:
    kubernetes = site.kubernetes
    if submission.queue or submission.time_limit_seconds or submission.spot:
        raise InputError(
            "--queue, --time-limit and --spot are for jobs; a service waits for nobody and stays."
        )
    spec: Document = {
        "excludeHeadPodFromServeSvc": True,
        # The old cluster answers until the new one is ready, and a minute more.
        "upgradeStrategy": {"type": "NewCluster"},
        "rayClusterDeletionDelaySeconds": 60,
        "serveConfigV2": serve_config(submission.serving or {}, kubernetes),
        "rayClusterConfig": _cluster(submission, site, scales=False) | _fault_tolerance(kubernetes),
    }
    return _resource("RayService", submission, kubernetes, spec, None)


def serve_config(serving: Mapping[str, Any], kubernetes: KubernetesSite) -> str:
    """Ray Serve's config file. Raises InputError for a port that everyone could ask."""
    if kubernetes.api_keys_secret is None and "api_keys" not in serving:
        raise InputError(
            "serve: anyone who reaches the port could ask. Make keys (syncytium serve --new-api-key NAME "
            "--api-keys keys), keep the file as a Secret, and name it in --site: kubernetes.api_keys_secret."
        )
    keys = {"api_keys": API_KEYS} if kubernetes.api_keys_secret else {}
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": SERVE_PORT},  # noqa: S104 - inside the pod's network policy
        "applications": [
            {
                "name": "syncytium",
                "route_prefix": "/",
                "import_path": "engine.serving.application:build",
                "args": {**serving, **keys},
            }
        ],
    }
    return yaml.safe_dump(config, sort_keys=False)


def _resource(
    kind: str, submission: Submission, kubernetes: KubernetesSite, spec: Document, queue: str | None
) -> Document:
    marks = labels(submission)
    annotations = {}
    if queue:
        marks["kueue.x-k8s.io/queue-name"] = queue
        if kubernetes.priority_class:
            marks["kueue.x-k8s.io/priority-class"] = kubernetes.priority_class
        if kubernetes.elastic_queue:
            annotations["kueue.x-k8s.io/elastic-job"] = "true"
    metadata: Document = {"name": submission.name, "namespace": kubernetes.namespace, "labels": marks}
    if annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _scales(submission: Submission, kubernetes: KubernetesSite) -> bool:
    """Kueue refuses Ray's autoscaler in jobs it has not been told are elastic: it admits the whole gang."""
    queued = submission.queue or kubernetes.queue
    return not queued or kubernetes.elastic_queue


def _cluster(submission: Submission, site: Site, *, scales: bool) -> Document:
    kubernetes, machine = site.kubernetes, submission.machine
    head = Machine(cpus=kubernetes.head_cpus, gpus=0, memory_gib=kubernetes.head_memory_gib)
    groups = [("gpu" if machine.gpus else "cpu", machine, submission.nodes)]
    if submission.reader_nodes:
        groups.append(("reader", without_gpus(machine), submission.reader_nodes))
    spilling = {"object-spilling-directory": "/spill"} if kubernetes.spill else {}
    autoscaler: Document = {
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": kubernetes.idle_seconds,
            "resources": {
                "requests": {"cpu": "500m", "memory": "1Gi"},
                "limits": {"cpu": "500m", "memory": "1Gi"},
            },
            "securityContext": CONFINED,
        },
    }
    return {
        "rayVersion": RAY_VERSION,
        **(autoscaler if scales else {}),
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            # No tasks where the driver and Ray's state live.
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0", **spilling},  # noqa: S104
            # The head is the one machine that nothing survives: never on spot.
            "template": template(submission, site, Role("head", head)),
        },
        "workerGroupSpecs": [
            {
                "groupName": name,
                "replicas": 1 if scales else nodes,
                "minReplicas": 1 if scales else nodes,
                "maxReplicas": nodes,
                "rayStartParams": spilling,
                "template": template(submission, site, Role("worker", of_group, spot=submission.spot)),
            }
            for name, of_group, nodes in groups
        ],
    }


def _fault_tolerance(kubernetes: KubernetesSite) -> Document:
    """With Redis, workers outlive a head that dies, and a new one takes over."""
    redis = kubernetes.redis
    if redis is None:
        return {}
    options: Document = {"backend": "redis", "redisAddress": redis.address}
    if redis.secret:
        options["redisPassword"] = {"valueFrom": {"secretKeyRef": {"name": redis.secret, "key": redis.key}}}
    return {"gcsFaultToleranceOptions": options}


class _Readable(yaml.SafeDumper):
    """Long texts as blocks; the same part twice is written twice, as a reviewer expects it."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


_Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, "|" if "\n" in text else None
    ),
)
