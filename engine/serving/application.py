"""The Ray Serve application: a deployment for each room, and the door before them.

`serve deploy` and RayService take `engine.serving.application:build` as an import path, with the fields of
`Settings` as its args.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from engine.serving.api import create_api
from engine.serving.doors import Doors
from engine.serving.rooms.cells import CellRoom
from engine.serving.rooms.counts import CountRoom
from engine.serving.rooms.features import FeatureRoom
from engine.serving.rooms.perturbations import PerturbationRoom
from engine.serving.rooms.phrases import PhraseRoom
from engine.serving.rooms.selections import SelectionRoom
from engine.serving.rooms.texts import TextRoom
from engine.serving.settings import Settings
from storage.index import VectorIndex

# A replica that is asked to leave finishes what it has, this long.
_GRACEFUL_SECONDS = 30


@serve.ingress()
class Door:
    """Answers HTTP. Holds nothing but handles, so that it can be doubled at will."""

    def __init__(self, settings: Settings, rooms: dict[str, DeploymentHandle]) -> None:
        self._doors = Doors(settings, **rooms)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(self._doors)


def build(settings: Settings) -> serve.Application:
    """The application to `serve.run`. Raises InputError when the index is not there."""
    # A config file gives a mapping; Serve does not see the type of `settings`, which is a text until asked.
    settings = Settings.model_validate(settings)
    index = VectorIndex.open(settings.index, settings.index_version)
    rooms: dict[str, Any] = {
        "cells": _deployment(CellRoom, settings, user_config={"index_version": settings.index_version}),
        # One process, or a selection made at one would not be known at the other.
        "selections": _deployment(SelectionRoom, settings, num_replicas=1),
    }
    if index.facts.get("joint") is not None:
        rooms["texts"] = _deployment(TextRoom, settings)
    if settings.cells is not None:
        rooms["counts"] = _deployment(CountRoom, settings)
    if settings.phrases is not None:
        rooms["phrases"] = _deployment(PhraseRoom, settings)
    if settings.perturbation is not None:
        rooms["perturbations"] = _deployment(PerturbationRoom, settings)
    if settings.features is not None:
        rooms["features"] = _deployment(FeatureRoom, settings)
    # The version is told to the cells' replicas alone: another one swaps in place, and nothing else restarts.
    settings = settings.model_copy(update={"index_version": None})
    bound = {name: room.bind(settings) for name, room in rooms.items()}
    return _deployment(Door, settings).bind(settings, bound)


def _deployment(room: type, settings: Settings, **more: Any) -> Any:
    options: dict[str, Any] = {
        "name": room.__name__ if room.__name__ != "ASGIIngressWrapper" else "Door",
        "max_ongoing_requests": settings.limits.ongoing,
        "max_queued_requests": settings.limits.queued,
        "graceful_shutdown_timeout_s": _GRACEFUL_SECONDS,
        "ray_actor_options": {"num_cpus": 0.1},
        **_replicas(settings),
        **more,
    }
    if more.get("num_replicas"):
        options.pop("autoscaling_config", None)
    return serve.deployment(room, **options)


def _replicas(settings: Settings) -> dict[str, Any]:
    if settings.most_replicas is None:
        return {"num_replicas": settings.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": settings.replicas,
            "max_replicas": settings.most_replicas,
            "target_ongoing_requests": max(1, settings.limits.ongoing // 4),
        }
    }
