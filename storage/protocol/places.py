"""The place of a dataset before its plan is there and after it is to go: taking, recognising, clearing it."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from storage.errors import InputError
from storage.locations import Location
from storage.protocol.snapshots import LEASES, LOG, PLAN, seal, unseal

# What a job may leave in an output directory before its dataset exists.
_NOT_FOREIGN = {"run.json"}

# Nothing can be created there, now or when asked again.
_UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT}

# More than a lineage takes; the list of members, which may be long, comes behind it.
_HEAD_BYTES = 65_536


def read_plan(location: Location) -> dict[str, Any] | None:
    """The plan that is there, if any."""
    try:
        return unseal(location, PLAN)
    except FileNotFoundError:
        return None


def is_planned(location: Location, lineage_id: str) -> bool:
    """Whether the place belongs to this lineage, from the first bytes of its plan.

    False where they do not say so: then the whole plan has to be read. Every commit asks this, and a plan is
    as long as its dataset.
    """
    try:
        length = min(location.size(PLAN), _HEAD_BYTES)
        (head,) = location.read_ranges(PLAN, [(0, length)])
    except FileNotFoundError:
        return False
    return f'"lineage_id":"{lineage_id}","members":['.encode() in head


def begin(location: Location, plan: Mapping[str, Any]) -> bool:
    """Create the plan; False when another process did.

    Raises InputError when the place holds other files, cannot be written or has no create-if-absent.
    """
    _refuse_foreign_files(location)
    try:
        if location.local is None:
            location.require_conditional_create()
        return location.create(PLAN, seal(plan))
    except OSError as error:
        if error.errno not in _UNWRITABLE and not isinstance(error, PermissionError):
            raise
        raise InputError(
            f"{location}: cannot be written ({error.strerror or error}); give --output a place with write "
            "permission and room"
        ) from error


def clear(location: Location) -> None:
    """Remove a dataset in an order that a kill cannot turn into a lie: what vouches for something goes
    before it.
    """
    names = list(location.list())
    vouchers = (f"{LOG}/snapshot-", f"{LOG}/member-")
    for prefix in vouchers:
        for name in names:
            if name.startswith(prefix):
                location.delete(name)
    for name in names:
        if name != PLAN and not name.startswith(vouchers):
            location.delete(name)
    location.delete(PLAN)
    location.delete_all()


def _refuse_foreign_files(location: Location) -> None:
    ours = (f"{LOG}/", f"{LEASES}/")
    foreign = [name for name in location.list() if name not in _NOT_FOREIGN and not name.startswith(ours)]
    # A plan that has appeared since means that another process started the same dataset a moment ago.
    if foreign and read_plan(location) is None:
        raise InputError(
            f"{location}: holds files that are no dataset ({', '.join(foreign[:3])}"
            f"{', ...' if len(foreign) > 3 else ''}); give an empty or new --output"
        )
