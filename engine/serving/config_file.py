"""The application as Ray Serve's config file: what `serve deploy` and RayService read."""

from __future__ import annotations

from typing import Any

import yaml

from engine.serving.settings import Settings

IMPORT_PATH, NAME = "engine.serving.application:build", "syncytium"
# Beyond what the longest answer may take: for a caller that sends or reads slowly.
_MARGIN_SECONDS = 90


def request_seconds(settings: Settings) -> float:
    """After so long Serve's proxy gives a request up."""
    return settings.limits.answer_seconds + _MARGIN_SECONDS


def config_file(settings: Settings, host: str, port: int) -> str:
    """YAML; paths stand in it as they were given and must open on every node."""
    args: dict[str, Any] = settings.model_dump(mode="json", exclude_defaults=True)
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port, "request_timeout_s": request_seconds(settings)},
        "applications": [{"name": NAME, "route_prefix": "/", "import_path": IMPORT_PATH, "args": args}],
    }
    return yaml.safe_dump(config, sort_keys=False)
