"""What a dataset is made from: the plan as it is written, and refusing a resume that asks for another one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.errors import LineageMismatch
from storage.locations import Location
from storage.protocol.snapshots import canonical, hash_of

# Keys become file names.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class MemberPlan:
    """One unit of work, retry and commit. `facts` say what it is made of, say the rows `start`, `stop`."""

    key: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def plan_body(kind: str, lineage: Mapping[str, Any], members: Sequence[MemberPlan]) -> dict[str, Any]:
    """The plan as it is written. Raises ValueError for keys that are no distinct file names."""
    keys = [member.key for member in members]
    wrong = [key for key in keys if not _KEY.fullmatch(key)]
    if wrong or len(set(keys)) < len(keys):
        raise ValueError(f"member keys must be distinct file names; found {(wrong or keys)[:5]}")
    lineage = as_json(lineage)
    return {
        "kind": kind,
        "lineage": lineage,
        "lineage_id": hash_of(canonical([kind, lineage])),
        "members": [{"key": member.key, "facts": as_json(member.facts)} for member in members],
    }


def as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value as it reads back from disk (tuples become lists), so that it compares with what is there."""
    return dict(json.loads(canonical(dict(value))))


def require_same_plan(location: Location, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise LineageMismatch, showing both sides, unless the plan on disk is the one asked for."""
    advice = "another --output, or --overwrite to replace it."
    if found["lineage_id"] != asked["lineage_id"]:
        both = side_by_side(
            {"kind": found["kind"], **found["lineage"]}, {"kind": asked["kind"], **asked["lineage"]}
        )
        raise LineageMismatch(
            f"{location}: holds a dataset of another lineage (* differs):\n{both}\n"
            f"Give the same inputs and options to resume it, {advice}"
        )
    if found["members"] != asked["members"]:
        raise LineageMismatch(
            f"{location}: holds the same lineage planned as {_extent(found['members'])}; asked for "
            f"{_extent(asked['members'])}. Give {advice}"
        )


def side_by_side(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """A table of every field of two lineages, `*` before those that differ; nested fields are dotted."""
    on_disk, wanted = dict(_flat(found)), dict(_flat(asked))
    names = sorted(on_disk.keys() | wanted.keys())
    rows = [("field", "on disk", "asked for")]
    rows += [(name, on_disk.get(name, "(absent)"), wanted.get(name, "(absent)")) for name in names]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = []
    for name, theirs, ours in rows:
        mark = " " if theirs == ours or name == "field" else "*"
        lines.append(f"  {mark} {name:<{widths[0]}}  {theirs:<{widths[1]}}  {ours}".rstrip())
    return "\n".join(lines)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, json.dumps(value, ensure_ascii=False)


def _extent(members: Sequence[Mapping[str, Any]]) -> str:
    if not members:
        return "no members"
    first, last = members[0], members[-1]
    return f"{len(members)} members ({first['key']} {first['facts']} to {last['key']} {last['facts']})"
