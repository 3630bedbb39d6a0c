"""All datasets below one place: how far each is, what it was made from, and which of them nobody needs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.commits import Dataset, open_snapshot
from storage.errors import InputError
from storage.locations import Location
from storage.protocol import places
from storage.protocol.snapshots import LEASES, LOG, PLAN


@dataclass(frozen=True)
class Entry:
    """One dataset. path: below the root, "" for the root itself. dataset_id: None until it is finished.
    size: bytes, of everything in its folder. is_being_written: somebody holds a lease that has not run out.
    """

    path: str
    location: Location
    kind: str
    lineage: Mapping[str, Any]
    dataset_id: str | None
    committed: int
    planned: int
    size: int
    is_being_written: bool

    @property
    def state(self) -> str:
        if self.dataset_id is not None:
            return "finished"
        return "being written" if self.is_being_written else "unfinished"


def datasets(root: Location | str) -> list[Entry]:
    """Every dataset at or below `root`, sorted by path. One listing, and the log of each dataset."""
    root = Location.of(root)
    sizes = root.list()
    paths = [
        name.removesuffix(PLAN).rstrip("/") for name in sizes if name == PLAN or name.endswith(f"/{PLAN}")
    ]
    return [_entry(root, path, sizes) for path in sorted(paths)]


def _entry(root: Location, path: str, sizes: Mapping[str, int]) -> Entry:
    location = root / path if path else root
    dataset = Dataset.open(location)
    below = f"{path}/" if path else ""
    names = [name for name in sizes if name.startswith(below)]
    records = f"{below}{LOG}/member-"
    leases = [name.removeprefix(below) for name in names if name.startswith(f"{below}{LEASES}/")]
    return Entry(
        path=path,
        location=location,
        kind=dataset.kind,
        lineage=dataset.lineage,
        dataset_id=open_snapshot(location).dataset_id if dataset.is_complete else None,
        committed=sum(name.startswith(records) for name in names),
        planned=len(dataset.members),
        size=sum(sizes[name] for name in names),
        is_being_written=_any_runs(location, leases),
    )


def _any_runs(location: Location, leases: Iterable[str]) -> bool:
    now = time.time()
    # Released since the listing: then nobody works on that member.
    held = (json.loads(location.read(name)) for name in leases if location.exists(name))
    return any(lease["expires"] > now for lease in held)


def made_from(entry: Entry, entries: Sequence[Entry]) -> list[Entry]:
    """Those of `entries` whose id stands in the lineage of `entry`."""
    named = set(_texts(entry.lineage))
    return [other for other in entries if other is not entry and other.dataset_id in named]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def unneeded(entries: Sequence[Entry], keep: Sequence[str]) -> list[Entry]:
    """Those that none of the paths in `keep` is, was made from, or lies in, and that nobody writes now.

    Raises InputError for a path that is no dataset here.
    """
    by_path = {entry.path: entry for entry in entries}
    absent = [path for path in keep if path.strip("/") not in by_path]
    if absent:
        raise InputError(
            f"--keep {absent[0]}: no such dataset; there are {', '.join(sorted(by_path)) or 'none'}."
        )
    waiting = [by_path[path.strip("/")] for path in keep] + [e for e in entries if e.is_being_written]
    needed: dict[str, Entry] = {}
    while waiting:
        entry = waiting.pop()
        if entry.path not in needed:
            needed[entry.path] = entry
            waiting += made_from(entry, entries)
    return [entry for entry in entries if not any(_holds(entry, path) for path in needed)]


def _holds(entry: Entry, path: str) -> bool:
    """Whether `path` is that dataset or lies in its folder."""
    return entry.path in ("", path) or path.startswith(f"{entry.path}/")


def remove(entry: Entry) -> None:
    """Remove one dataset with everything in its folder; killed half-way, what is left is no dataset."""
    places.clear(entry.location)
