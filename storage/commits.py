"""The one way anything persists: plan, members, one record per member, snapshot.

    LOCATION/
      _log/00000000.json            the plan: kind, lineage, members; created once
      _log/member-<key>.json        the record of one member: its objects with size and hash; created once
      _log/snapshot-00000001.json   the whole dataset: all records and the root objects; created once
      _lease/<key>/<attempt>        who works on a member at the moment (saves work, never needed)
      ...                           the objects themselves, under their final names

A member is deterministic: the same plan gives the same bytes. So two workers that do the same member write
identical objects, whichever creates the record first has committed it, and the other finds its own hashes in
the record. Without a record a member does not exist; without a snapshot a dataset does not open. Killing
anything at any moment loses at most the members being worked on, and resuming is `pending()`: the plan minus
the records.

The protocol is the common core of Iceberg, Lance and icechunk: immutable objects, and one conditional create
as the only point where something becomes true.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from storage.durable_files import Buffer
from storage.errors import DamagedDataset, InputError, LineageMismatch
from storage.locations import Location
from storage.protocol import leases, places
from storage.protocol.lineage import MemberPlan, as_json, plan_body, require_same_plan
from storage.protocol.members import MemberWriter, refuse_reserved
from storage.protocol.snapshots import (
    LOG,
    PLAN,
    Record,
    Snapshot,
    Stored,
    newest_version,
    open_snapshot,
    record_name,
    require_sizes,
    seal,
    snapshot_name,
    unseal,
)

__all__ = ["Dataset", "MemberPlan", "MemberWriter", "Record", "Snapshot", "Stored", "open_snapshot"]

# Age of a temporary file that nobody is writing any more: an object is written in seconds, not in an hour.
_TORN_SECONDS = 3600

# Records read at once when a dataset is finished; on an object store each costs a round trip.
_READERS = 16


class Dataset:
    """The writing side of one dataset. Get one with `plan` (the driver) or `open` (anyone later).

    Pickles as its location and lineage id: a worker that wakes up after the directory was given to another
    plan is refused instead of mixing two datasets.
    """

    def __init__(self, location: Location, plan: Mapping[str, Any]) -> None:
        self.location = location
        self.kind: str = plan["kind"]
        self.lineage: Mapping[str, Any] = plan["lineage"]
        self.lineage_id: str = plan["lineage_id"]
        self.members = [MemberPlan(entry["key"], entry["facts"]) for entry in plan["members"]]
        self._by_key = {member.key: member for member in self.members}
        self._leases_seen: dict[str, float] = {}

    @classmethod
    def plan(
        cls,
        location: Location | str,
        *,
        kind: str,
        lineage: Mapping[str, Any],
        members: Sequence[MemberPlan],
        overwrite: bool = False,
    ) -> Dataset:
        """Start a dataset, or take up the one that is there when it has the same plan.

        `lineage` and member facts hold JSON values; everything that changes a value on disk belongs in them.
        `overwrite` removes the dataset that is there first (only ever a dataset, never foreign files).
        Raises LineageMismatch with both lineages, InputError when the place holds other files or the store
        has no create-if-absent.
        """
        location = Location.of(location)
        asked = plan_body(kind, lineage, members)
        found = places.read_plan(location)
        if found is not None and overwrite:
            places.clear(location)
            found = None
        if found is None:
            if places.begin(location, asked):
                return cls(location, asked)
            found = unseal(location, PLAN)
        require_same_plan(location, found, asked)
        return cls(location, found)

    @classmethod
    def open(cls, location: Location | str, lineage_id: str | None = None) -> Dataset:
        """The dataset planned at a location, finished or not. Raises InputError, LineageMismatch."""
        location = Location.of(location)
        found = places.read_plan(location)
        if found is None:
            raise InputError(f"{location}: no dataset here ({PLAN} is missing)")
        if lineage_id not in (None, found["lineage_id"]):
            raise LineageMismatch(
                f"{location}: now planned with lineage {found['lineage_id']}; this worker was started for "
                f"{lineage_id}"
            )
        return cls(location, found)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.location, self.lineage_id)

    @property
    def is_complete(self) -> bool:
        """Whether a snapshot exists: nothing is left to do."""
        return newest_version(self.location) is not None

    def pending(self) -> list[MemberPlan]:
        """Members without a record, in plan order: what a resumed job has to do."""
        log = self.location.list(LOG)
        return [member for member in self.members if record_name(member.key) not in log]

    def records(self) -> Iterator[Record]:
        """The records that exist, in plan order."""
        log = self.location.list(LOG)
        committed = [member.key for member in self.members if record_name(member.key) in log]
        with ThreadPoolExecutor(_READERS) as pool:
            yield from pool.map(self.record, committed)

    def record(self, key: str) -> Record:
        """The record of one committed member. Raises FileNotFoundError, DamagedDataset."""
        body = unseal(self.location, record_name(key))
        if body["lineage_id"] != self.lineage_id:
            raise DamagedDataset(
                f"{self.location}/{record_name(key)}: committed under lineage {body['lineage_id']}, the plan "
                f"has {self.lineage_id}; write the dataset again with --overwrite"
            )
        return Record.from_json(body)

    def member(self, key: str) -> MemberWriter:
        """A writer for one member; if it is committed already, a writer that only compares."""
        return MemberWriter(self, self._planned(key))

    def claim(self, key: str, owner: str, seconds: float) -> bool:
        """Take (or renew) the lease on a member; False when another holds it or the member is committed.

        It only saves double work: a worker that writes without a lease is as correct as one with it.
        """
        self._planned(key)
        if self.location.exists(record_name(key)):
            return False
        return leases.take(self.location, key, owner, seconds, self._leases_seen)

    def finish(
        self, objects: Mapping[str, Buffer] | None = None, facts: Mapping[str, Any] | None = None
    ) -> Snapshot:
        """Write the root objects in the order given, then the snapshot. All members must be committed.

        On a finished dataset it changes nothing and returns the snapshot. Raises InputError saying how many
        members are missing, DamagedDataset when a committed object is.
        """
        if self.is_complete:
            return open_snapshot(self.location, self.kind)
        records = list(self.records())
        if len(records) < len(self.members):
            raise InputError(
                f"{self.location}: not finished: {len(records)} of {len(self.members)} members are committed"
            )
        require_sizes(self.location, {name: s for record in records for name, s in record.objects.items()})
        stored = {}
        for name, content in (objects or {}).items():
            refuse_reserved(name)
            self.location.put(name, content)
            stored[name] = Stored.of(content)
        self._create_snapshot(records, stored, as_json(facts or {}))
        leases.release_all(self.location)
        self._remove_torn_files()
        return open_snapshot(self.location, self.kind)

    def collect_garbage(self, older_than_seconds: float) -> list[str]:
        """Delete what no record names: objects of members never committed, temporary files, spent leases.

        Only things older than the given age go, so give more than the longest member takes. Files directly in
        the root (run.json, a user's notes) stay. One process should do it. Returns the deleted names.
        """
        # Ages before records: an object committed in between is then seen as committed.
        old = [name for name, age in self.location.ages().items() if age > older_than_seconds]
        torn = [name for name, age in self.location.ages(temporary=True).items() if age > older_than_seconds]
        kept = {name for record in self.records() for name in record.objects}
        if self.is_complete:
            kept |= set(open_snapshot(self.location).all_objects)
        garbage = sorted(torn + [name for name in old if name not in kept and _is_collectable(name)])
        for name in garbage:
            self.location.delete(name)
        return garbage

    def require_current(self) -> None:
        """Raise LineageMismatch when the directory was given to another plan since this was opened."""
        if not places.is_planned(self.location, self.lineage_id):
            Dataset.open(self.location, self.lineage_id)

    def _planned(self, key: str) -> MemberPlan:
        if key not in self._by_key:
            raise KeyError(f"{self.location}: member {key!r} is not in the plan")
        return self._by_key[key]

    def _remove_torn_files(self) -> None:
        """Temporary files of killed writers; a straggler's that is still growing is younger."""
        for name, age in self.location.ages(temporary=True).items():
            if age > _TORN_SECONDS:
                self.location.delete(name)

    def _create_snapshot(
        self, records: Sequence[Record], objects: Mapping[str, Stored], facts: Mapping[str, Any]
    ) -> None:
        body = {
            "kind": self.kind,
            "lineage": self.lineage,
            "lineage_id": self.lineage_id,
            "members": [record.as_json() for record in records],
            "objects": {name: stored.as_json() for name, stored in objects.items()},
            "facts": facts,
        }
        self.require_current()
        if self.location.create(snapshot_name(1), seal(body)):
            return
        theirs = unseal(self.location, snapshot_name(1))
        differing = [part for part in ("members", "objects", "facts") if theirs[part] != body[part]]
        if differing:
            raise DamagedDataset(
                f"{self.location}/{snapshot_name(1)}: another process finished the same plan with other "
                f"{', '.join(differing)}; the versions of the libraries differ. Check with `inspect --verify`"
            )


def _reopened(location: Location, lineage_id: str) -> Dataset:
    dataset = _opened(location, lineage_id)
    dataset.require_current()
    return dataset


@lru_cache(maxsize=4)
def _opened(location: Location, lineage_id: str) -> Dataset:
    # A dataset comes with every member that reaches a committing process, and its plan may be long.
    return Dataset.open(location, lineage_id)


def _is_collectable(name: str) -> bool:
    if name.startswith(f"{LOG}/"):
        return name.startswith(f"{LOG}/probe-")
    return "/" in name
