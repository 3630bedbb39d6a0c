"""The Ray Serve application: the door, and the rooms behind it, inside the door or a deployment each.

`serve deploy` and RayService take `engine.serving.application:build` as an import path, with the
fields of `Settings` as its args.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from engine.serving.api import create_api
from engine.serving.doors import Doors
from engine.serving.placement import Elsewhere, Inside, RoomReplica
from engine.serving.rooms.attributions import AttributionRoom
from engine.serving.rooms.cells import CellRoom
from engine.serving.rooms.chat import ChatRoom
from engine.serving.rooms.counts import CountRoom
from engine.serving.rooms.dashboard import DashboardRoom
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
    """Answers HTTP. Rooms without a handle are inside: in this process."""

    def __init__(self, settings: Settings, handles: dict[str, DeploymentHandle]) -> None:
        inside = {name: room for name, room in rooms_of(settings).items() if name not in handles}
        self._inside = {name: Inside(room(settings)) for name, room in inside.items()}
        elsewhere = {name: Elsewhere(handle) for name, handle in handles.items()}
        self._doors = Doors(settings, **self._inside, **elsewhere)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(self._doors)

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """As `CellRoom.reconfigure`, for cells that are inside."""
        if "cells" in self._inside:
            await self._inside["cells"].reconfigure.remote(config)

    def check_health(self) -> None:
        if "cells" in self._inside:
            self._inside["cells"].room.check_health()


def rooms_of(settings: Settings) -> dict[str, type]:
    """What these settings need loaded, by the names of `Doors`. Raises InputError when there is no index."""
    index = VectorIndex.open(settings.index, settings.index_version)
    with_tower = settings.cells is not None and settings.cell_tower
    given = {
        "counts": (settings.cells, CountRoom),
        "attributions": ((index.facts.get("joint") if with_tower else None), AttributionRoom),
        "phrases": (settings.phrases, PhraseRoom),
        "chat": (settings.chat, ChatRoom),
        "perturbations": (settings.perturbation, PerturbationRoom),
        "features": (settings.features, FeatureRoom),
        "dashboard": (settings.dashboard, DashboardRoom),
        "texts": (index.facts.get("joint"), TextRoom),
    }
    loaded = {name: room for name, (what, room) in given.items() if what is not None}
    return {"cells": CellRoom, "selections": SelectionRoom, **loaded}


def build(settings: Settings) -> serve.Application:
    """The application to `serve.run`. Raises InputError when the index is not there."""
    # A config file gives a mapping; Serve does not see the type of `settings`, which is a text until asked.
    settings = Settings.model_validate(settings)
    # The version is told to the cells' replicas alone: another one swaps in place, and nothing else restarts.
    version = {"index_version": settings.index_version}
    rooms, settings = rooms_of(settings), settings.model_copy(update={"index_version": None})
    # A chat model has a process of its own: its steps are long, and it may have a device.
    apart = {name: room for name, room in rooms.items() if name == "chat" or not settings.is_one_process}
    handles = {}
    for name, room in apart.items():
        more: dict[str, Any] = {"user_config": version} if name == "cells" else {}
        if name == "selections":
            # One process, or a selection made at one would not be known at the other.
            more = {"num_replicas": 1, "autoscaling_config": None}
        if name == "chat":
            options = {"num_cpus": 1, "num_gpus": settings.chat_gpus}
            # Its successor may have no other device to begin on.
            more = {"ray_actor_options": options, "max_surge_percent": 0 if settings.chat_gpus else 100}
        handles[name] = _deployment(RoomReplica, room.__name__, settings, **more).bind(room, settings)
    return _deployment(Door, "Door", settings, user_config=version).bind(settings, handles)


def _deployment(room: type, name: str, settings: Settings, **more: Any) -> Any:
    options: dict[str, Any] = {
        "name": name,
        "max_ongoing_requests": settings.limits.ongoing,
        "max_queued_requests": settings.limits.queued,
        # What Serve refuses by itself, before the door sees it, says when to come back, too.
        "backpressure_config": {"status_code": 503, "retry_after_s": 1},
        "graceful_shutdown_timeout_s": _GRACEFUL_SECONDS,
        # Deployed again, as by a driver that was killed and restarted: the old goes when the new is ready.
        "max_surge_percent": 100,
        "ray_actor_options": {"num_cpus": 0.1},
        **_replicas(settings),
        **more,
    }
    return serve.deployment(room, **{key: value for key, value in options.items() if value is not None})


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
