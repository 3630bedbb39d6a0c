"""Who may reach the pods of a submission: each other, and the few that must."""

from __future__ import annotations

from cluster.kubernetes.pods import DASHBOARD_PORT, METRICS_PORT, SERVE_PORT, Document, labels
from cluster.site import KubernetesSite
from cluster.submission import Submission


def network_policy(submission: Submission, kubernetes: KubernetesSite) -> Document:
    """Ray's ports run whatever they are sent: the token guards them, and this keeps others from knocking.

    Outward nothing is closed: stores, registries and Redis are wherever the site has them.
    """
    ours = {"podSelector": {"matchLabels": labels(submission)}}
    ingress: list[Document] = [{"from": [ours]}]
    # KubeRay's operator submits and asks after jobs and services over the dashboard.
    operator_ports = [DASHBOARD_PORT] if submission.serving is None else [DASHBOARD_PORT, SERVE_PORT]
    ingress.append(_from([kubernetes.operator_namespace], operator_ports))
    ingress.append(_from([kubernetes.metrics_namespace], [METRICS_PORT]))
    if submission.serving is not None and kubernetes.clients:
        ingress.append(_from(list(kubernetes.clients), [SERVE_PORT]))
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": submission.name,
            "namespace": kubernetes.namespace,
            "labels": labels(submission),
        },
        "spec": {
            "podSelector": {"matchLabels": labels(submission)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def _from(namespaces: list[str], ports: list[int]) -> Document:
    return {
        "from": [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
            for name in namespaces
        ],
        "ports": [{"protocol": "TCP", "port": port} for port in ports],
    }
