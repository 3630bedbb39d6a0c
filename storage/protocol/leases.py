"""Leases: who works on a member at the moment. They save double work and are never needed for correctness.

A lease is the object `_lease/<key>/<attempt>`, created once; taking over an expired one creates the next
attempt, so that of several takers one wins. Each member has a folder of its own, so a claim costs the same
in a dataset of three members and of a million.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import MutableMapping
from typing import Any

from storage.locations import Location
from storage.protocol.snapshots import LEASES, canonical


def take(
    location: Location, key: str, owner: str, seconds: float, first_seen: MutableMapping[str, float]
) -> bool:
    """Take or renew the lease on `key`; False while somebody else holds it.

    Expiry is written by the owner's clock, and clocks are wrong: one an hour ahead would block a member for
    an hour after its worker died. So `first_seen` (lease name -> our monotonic seconds) also lets a lease run
    out once this process has watched it for its whole length. A clock that runs behind only makes us do work
    twice.
    """
    latest = max(_attempts(location, key), default=-1)
    if latest >= 0:
        name = _name(key, latest)
        lease = _read(location, name)
        if lease is not None and lease["owner"] != owner:
            watched = time.monotonic() - first_seen.setdefault(name, time.monotonic())
            if time.time() <= lease["expires"] and watched <= lease["seconds"]:
                return False
    content = {"owner": owner, "seconds": seconds, "expires": time.time() + seconds}
    return location.create(_name(key, latest + 1), canonical(content))


def begun(location: Location) -> dict[str, int]:
    """How often each member was begun: key -> leases taken on it. Reads every lease of the dataset."""
    return dict(Counter(name.split("/")[1] for name in location.list(LEASES)))


def release_all(location: Location) -> None:
    """Remove every lease: the dataset is finished."""
    (location / LEASES).delete_all()


def _attempts(location: Location, key: str) -> list[int]:
    endings = [name.rpartition("/")[2] for name in location.list(f"{LEASES}/{key}")]
    return [int(ending) for ending in endings if ending.isdigit()]


def _name(key: str, attempt: int) -> str:
    return f"{LEASES}/{key}/{attempt}"


def _read(location: Location, name: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(location.read(name)))
    except FileNotFoundError:
        return None
