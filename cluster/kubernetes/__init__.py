"""Kubernetes: what is applied, as KubeRay's custom resources, and following what becomes of it."""
