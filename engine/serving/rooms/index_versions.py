"""Versions of an index that may be served: those whose every byte is the one that was committed."""

from __future__ import annotations

import logging

from storage.commits import open_snapshot
from storage.errors import DamagedDataset
from storage.index import VectorIndex
from storage.index.reader import KIND
from storage.locations import Location

log = logging.getLogger("syncytium.serving")


def sound(path: str, version: int | None) -> VectorIndex:
    """A version, read once from end to end; None: the newest.

    Raises DamagedDataset that names what is damaged, InputError for a version that is not there.
    """
    index = VectorIndex.open(path, version)
    damage = index.snapshot.verify()
    if damage:
        raise DamagedDataset(f"{path}, version {index.version}: {damage[0]}")
    return index


def newest_sound(path: str) -> tuple[VectorIndex, str | None]:
    """The newest version without damage, and what is wrong with the newest of all if it is not that one.

    Raises DamagedDataset when no version is sound.
    """
    refused: DamagedDataset | None = None
    for version in range(open_snapshot(Location.of(path), KIND).version, 0, -1):
        try:
            return sound(path, version), None if refused is None else str(refused)
        except DamagedDataset as error:
            log.error("not served: %s", error)
            refused = refused or error
    raise refused or DamagedDataset(f"{path}: no version")
