"""KubeRay's Custom Resource Definitions as strict JSON schemas: a field they do not name is refused.

An API server drops unknown fields without a word; a misspelt limit is then no limit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import yaml

_KEPT = {"enum", "maxItems", "maxLength", "maximum", "minItems", "minLength", "minimum", "pattern", "type"}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_METADATA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47},
        "namespace": {"type": "string"},
        "labels": _TEXTS,
        "annotations": _TEXTS,
    },
    "required": ["name", "namespace", "labels"],
    "additionalProperties": False,
}

# Kubernetes' own kinds are not among the definitions; of these, the fields that we write.
_PEERS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "podSelector": {"$ref": "#/$defs/selector"},
            "namespaceSelector": {"$ref": "#/$defs/selector"},
        },
        "minProperties": 1,
        "additionalProperties": False,
    },
}
NETWORK_POLICY: dict[str, Any] = {
    "$defs": {
        "selector": {
            "type": "object",
            "properties": {"matchLabels": _TEXTS},
            "required": ["matchLabels"],
            "additionalProperties": False,
        }
    },
    "type": "object",
    "properties": {
        "apiVersion": {"const": "networking.k8s.io/v1"},
        "kind": {"const": "NetworkPolicy"},
        "metadata": _METADATA,
        "spec": {
            "type": "object",
            "properties": {
                "podSelector": {"$ref": "#/$defs/selector"},
                "policyTypes": {"type": "array", "items": {"enum": ["Ingress", "Egress"]}},
                "ingress": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "from": _PEERS,
                            "ports": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "properties": {"protocol": {"const": "TCP"}, "port": {"type": "integer"}},
                                    "required": ["port"],
                                    "additionalProperties": False,
                                },
                            },
                        },
                        "required": ["from"],
                        "additionalProperties": False,
                    },
                },
            },
            "required": ["podSelector", "policyTypes", "ingress"],
            "additionalProperties": False,
        },
    },
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
}


def definitions(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(apiVersion, kind) -> strict JSON schema."""
    schemas: dict[tuple[str, str], dict[str, Any]] = {
        ("networking.k8s.io/v1", "NetworkPolicy"): NETWORK_POLICY
    }
    for file in sorted(folder.glob("*.yaml")):
        definition = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["spec"]
        for version in definition["versions"]:
            if version["name"] == "v1":
                schema = strict(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = _METADATA
                schemas[f"{definition['group']}/v1", definition["names"]["kind"]] = schema
    return schemas


def strict(structural: dict[str, Any]) -> dict[str, Any]:
    """A structural schema as JSON Schema, objects closed."""
    if structural.get("x-kubernetes-int-or-string"):
        text = {"type": "string", "pattern": structural.get("pattern", "")}
        return {"anyOf": [{"type": "integer"}, text]}
    schema = {key: value for key, value in structural.items() if key in _KEPT}
    if "required" in structural:
        # Where the API server fills in a default, the field need not be given.
        fields = structural.get("properties", {})
        schema["required"] = [
            name for name in structural["required"] if "default" not in fields.get(name, {})
        ]
    if "items" in structural:
        schema["items"] = strict(structural["items"])
    if structural.get("type") == "object":
        schema["properties"] = {
            name: strict(field) for name, field in structural.get("properties", {}).items()
        }
        others = structural.get("additionalProperties")
        if isinstance(others, dict):
            schema["additionalProperties"] = strict(others)
        else:
            schema["additionalProperties"] = bool(
                others or structural.get("x-kubernetes-preserve-unknown-fields")
            )
    return schema


def problems(document: dict[str, Any], schemas: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    """One line for each thing that an API server would refuse or silently drop."""
    schema = schemas[document["apiVersion"], document["kind"]]
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(document)]
