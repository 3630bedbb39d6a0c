"""What the log of a dataset says and how it is read: records, snapshots, verification.

Every file in `_log/` is canonical JSON (sorted keys, no spaces) with its own checksum in the field `xxh3`, so
damage to the log itself is found by name like damage to an object. Writing is in `storage.commits`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from storage import durable_files
from storage.durable_files import Buffer, Content, in_parts
from storage.errors import DamagedDataset, InputError
from storage.locations import Location

LOG, LEASES = "_log", "_lease"
PLAN = f"{LOG}/00000000.json"
FORMAT = 1

# Verification reads objects in pieces of this many bytes, so its memory does not depend on their size.
_VERIFY_BYTES = 64 << 20


@dataclass(frozen=True)
class Stored:
    """Size in bytes and xxh3-128 (32 hex digits) of one object."""

    size: int
    xxh3: str

    @classmethod
    def of(cls, content: Content) -> Stored:
        parts = in_parts(content)
        return cls(sum(memoryview(part).nbytes for part in parts), hash_of(*parts))

    def as_json(self) -> dict[str, Any]:
        return {"size": self.size, "xxh3": self.xxh3}


@dataclass(frozen=True)
class Record:
    """The commit of one member: its objects, and what its writer states (cells, tokens, row range)."""

    key: str
    objects: Mapping[str, Stored]
    facts: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "objects": {name: stored.as_json() for name, stored in sorted(self.objects.items())},
            "facts": dict(self.facts),
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Record:
        return cls(entry["key"], _objects_from_json(entry["objects"]), entry["facts"])

    @property
    def id(self) -> str:
        """Hash of the whole record."""
        return hash_of(canonical(self.as_json()))


@dataclass(frozen=True)
class Snapshot:
    """A finished dataset: nothing outside it is part of it. `members` are in plan order."""

    location: Location
    kind: str
    version: int
    lineage: Mapping[str, Any]
    lineage_id: str
    members: Sequence[Record]
    objects: Mapping[str, Stored]
    facts: Mapping[str, Any]

    @cached_property
    def dataset_id(self) -> str:
        """Hash of kind, lineage and every member record: equal when the members are equal byte for byte."""
        return hash_of(canonical([self.kind, self.lineage, [record.id for record in self.members]]))

    def __reduce__(self) -> tuple[Any, ...]:
        return open_snapshot, (self.location, self.kind, self.version)

    @cached_property
    def all_objects(self) -> dict[str, Stored]:
        """Every object of the dataset, of members and root: name -> size and hash."""
        every: dict[str, Stored] = {}
        for record in self.members:
            every.update(record.objects)
        every.update(self.objects)
        return every

    @property
    def size(self) -> int:
        """Bytes of all objects."""
        return sum(stored.size for stored in self.all_objects.values())

    def read(self, name: str) -> bytes:
        """One whole object, its size and hash checked. Raises DamagedDataset."""
        try:
            content = self.location.read(name)
        except FileNotFoundError as error:
            raise DamagedDataset(f"{self.location}/{name}: missing; {_REBUILD}") from error
        problem = _compare(name, self.all_objects[name], Stored.of(content))
        if problem:
            raise DamagedDataset(f"{self.location}/{problem}; {_REBUILD}")
        return content

    def read_into(self, name: str, buffer: npt.NDArray[np.uint8]) -> None:
        """One whole object into memory of its size, its hash checked. Raises DamagedDataset."""
        try:
            if self.location.local is None:
                content = np.frombuffer(self.location.read(name), np.uint8)
                found = len(content)
                buffer[: min(found, len(buffer))] = content[: len(buffer)]
            else:
                found = self.location.size(name)
                durable_files.read_into(self.location.local / name, 0, buffer.data)
        except FileNotFoundError as error:
            raise DamagedDataset(f"{self.location}/{name}: missing; {_REBUILD}") from error
        problem = _compare(name, self.all_objects[name], Stored(found, hash_of(buffer.data)))
        if problem:
            raise DamagedDataset(f"{self.location}/{problem}; {_REBUILD}")

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Byte ranges of one object; only their lengths are checked. Raises DamagedDataset."""
        try:
            return self.location.read_ranges(name, ranges)
        except FileNotFoundError as error:
            raise DamagedDataset(f"{self.location}/{name}: missing; {_REBUILD}") from error

    def check_sizes(self) -> None:
        """One listing against the snapshot; raises DamagedDataset naming what is missing or has another size.

        A reader calls this on opening: array formats read a missing object as zeros without an error.
        """
        require_sizes(self.location, self.all_objects)

    def verify(self) -> list[str]:
        """Read everything and compare; one line per missing or changed object, none if all is sound."""
        problems = dict(size_problems(self.location, self.all_objects))
        for name, stored in self.all_objects.items():
            if name not in problems:
                found = _hash_in_pieces(self.location, name, stored.size)
                if found != stored.xxh3:
                    problems[name] = f"{name}: hash {found}, committed {stored.xxh3}"
        return [problems[name] for name in sorted(problems)]


_REBUILD = "restore it from a copy, or write the dataset again with --overwrite"


def open_snapshot(location: Location | str, kind: str | None = None, version: int | None = None) -> Snapshot:
    """The newest (or the given) snapshot of a dataset.

    Raises InputError when there is none, it is of another kind or not finished; DamagedDataset when its log
    is damaged.
    """
    location = Location.of(location)
    newest = newest_version(location) if version is None else version
    if newest is None:
        raise InputError(_why_not_open(location))
    body = unseal(location, snapshot_name(newest))
    if kind is not None and body["kind"] != kind:
        raise InputError(f"{location}: a dataset of kind {body['kind']!r}; expected {kind!r}")
    return Snapshot(
        location=location,
        kind=body["kind"],
        version=newest,
        lineage=body["lineage"],
        lineage_id=body["lineage_id"],
        members=[Record.from_json(entry) for entry in body["members"]],
        objects=_objects_from_json(body["objects"]),
        facts=body["facts"],
    )


def snapshot_name(version: int) -> str:
    return f"{LOG}/snapshot-{version:08d}.json"


def record_name(key: str) -> str:
    return f"{LOG}/member-{key}.json"


def newest_version(location: Location) -> int | None:
    """The number of the newest snapshot, or None when the dataset is not finished (or not there)."""
    version = 0
    while location.exists(snapshot_name(version + 1)):
        version += 1
    return version or None


def size_problems(location: Location, objects: Mapping[str, Stored]) -> Iterator[tuple[str, str]]:
    """(name, what is wrong) of every object that one listing shows absent or of another size."""
    present = location.list()
    for name, stored in sorted(objects.items()):
        if name not in present:
            yield name, f"{name}: missing"
        elif present[name] != stored.size:
            yield name, f"{name}: {present[name]} bytes, {stored.size} committed"


def require_sizes(location: Location, objects: Mapping[str, Stored]) -> None:
    """Raise DamagedDataset naming the objects that one listing shows absent or of another size."""
    problems = [line for _, line in size_problems(location, objects)]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise DamagedDataset(f"{location}: damaged: {'; '.join(problems[:5])}{more}; {_REBUILD}")


def canonical(value: Any) -> bytes:
    """The one JSON spelling of a value: what is hashed and what is written."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    ).encode()


def hash_of(*parts: Buffer) -> str:
    """xxh3-128 of all parts together, as 32 hex digits."""
    running = xxhash.xxh3_128()
    for part in parts:
        running.update(part)
    return running.hexdigest()


def seal(body: Mapping[str, Any]) -> bytes:
    """The bytes of a log file: the body, the format number and a checksum over both."""
    stamped = {**body, "format": FORMAT}
    return canonical({**stamped, "xxh3": hash_of(canonical(stamped))}) + b"\n"


def unseal(location: Location, name: str) -> dict[str, Any]:
    """Read a log file. Raises FileNotFoundError, DamagedDataset, InputError for a newer format."""
    content = location.read(name)
    try:
        body: dict[str, Any] = json.loads(content)
        checksum = body.pop("xxh3")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedDataset(f"{location}/{name}: not a log file of a dataset ({error})") from error
    if checksum != hash_of(canonical(body)):
        raise DamagedDataset(f"{location}/{name}: its checksum does not match its content")
    if body["format"] > FORMAT:
        raise InputError(f"{location}/{name}: format {body['format']}; this version reads up to {FORMAT}")
    return body


def _why_not_open(location: Location) -> str:
    try:
        plan = unseal(location, PLAN)
    except FileNotFoundError:
        return f"{location}: no dataset here ({PLAN} is missing)"
    log = location.list(LOG)
    committed = sum(record_name(member["key"]) in log for member in plan["members"])
    return (
        f"{location}: not finished: {committed} of {len(plan['members'])} members of this {plan['kind']!r} "
        "dataset are committed; run the job that writes it again, it resumes"
    )


def _objects_from_json(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Stored]:
    return {name: Stored(entry["size"], entry["xxh3"]) for name, entry in entries.items()}


def _compare(name: str, committed: Stored, found: Stored) -> str | None:
    if found.size != committed.size:
        return f"{name}: {found.size} bytes, {committed.size} committed"
    if found.xxh3 != committed.xxh3:
        return f"{name}: hash {found.xxh3}, committed {committed.xxh3}"
    return None


def _hash_in_pieces(location: Location, name: str, size: int) -> str:
    digest = xxhash.xxh3_128()
    for start in range(0, size, _VERIFY_BYTES):
        digest.update(location.read_ranges(name, [(start, min(start + _VERIFY_BYTES, size))])[0])
    return digest.hexdigest()
