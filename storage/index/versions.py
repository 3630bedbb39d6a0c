"""Changing an index: append, delete, compact. Each makes the next version, or is told that another did.

What a version consists of never changes, so a search that runs on the old one is not disturbed; objects no
version needs any more go with `vacuum`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.commits import Record, Snapshot, Stored, open_snapshot
from storage.durable_files import Buffer
from storage.errors import InputError
from storage.index import cell_tables
from storage.index.reader import TRANSFORM_KEY, Segment, VectorIndex
from storage.index.segments import SegmentArrays, join, object_name, segment_facts, segment_objects, take
from storage.protocol.snapshots import canonical, hash_of, seal, snapshot_name

# Above this share of deleted rows, and above so many small segments, reading past them costs more than it
# takes to write the index anew.
_DELETED_SHARE = 0.1
_SMALL_SEGMENTS = 16


def publish(
    before: Snapshot,
    members: Sequence[Record],
    objects: Mapping[str, Stored],
    facts: Mapping[str, Any],
) -> Snapshot:
    """Create the version after `before`: the one moment at which a change becomes true.

    Raises InputError when another writer made that version first; nothing of ours is visible then.
    """
    body = {
        "kind": before.kind,
        "lineage": before.lineage,
        "lineage_id": before.lineage_id,
        "members": [record.as_json() for record in members],
        "objects": {name: stored.as_json() for name, stored in objects.items()},
        "facts": dict(facts),
    }
    if not before.location.create(snapshot_name(before.version + 1), seal(body)):
        raise InputError(
            f"{before.location}: another process changed the index after version {before.version}; "
            "run the same command again"
        )
    return open_snapshot(before.location, before.kind, before.version + 1)


def store_segment(
    before: Snapshot, key: str, rows: SegmentArrays, more: Mapping[str, Buffer] | None = None
) -> Record:
    """Write the objects of a new segment; it belongs to no version yet. `more` are further parts by name."""
    stored = {}
    for name, content in segment_objects(key, rows):
        before.location.put(name, content)
        stored[name] = Stored.of(content)
    for part, content in (more or {}).items():
        before.location.put(object_name(key, part), content)
        stored[object_name(key, part)] = Stored.of(content)
    return Record(key, stored, segment_facts(rows))


def append(index: VectorIndex, segments: Sequence[Record], source: Mapping[str, Any]) -> VectorIndex:
    """A version with more segments (`store_segment`), made from a source that is not in the index yet."""
    before = index.snapshot
    facts = {
        **before.facts,
        "sources": [*before.facts["sources"], dict(source)],
        "next_id": before.facts["next_id"] + source["n_cells"],
    }
    return VectorIndex(publish(before, [*before.members, *segments], before.objects, facts))


def calibrate(index: VectorIndex, table: Mapping[str, Any], shortlist: Mapping[str, Any]) -> VectorIndex:
    """A version with this calibration of its scores, and these measured shortlists, in place of its own."""
    before = index.snapshot
    facts = {**before.facts, "calibration": dict(table), "shortlist": dict(shortlist)}
    return VectorIndex(publish(before, before.members, before.objects, facts))


def delete(index: VectorIndex, ids: npt.NDArray[np.int64]) -> VectorIndex:
    """A version without these cells; unknown ids are no error. The index itself if none of them is in it."""
    before = index.snapshot
    objects, tombstones = dict(before.objects), dict(before.facts["deleted"])
    for segment in index.segments:
        gone = np.isin(segment.arrays.ids, ids)
        if segment.live is not None:
            gone |= ~segment.live
        if int(gone.sum()) == segment.n_rows - segment.n_live:
            continue
        bits = np.packbits(gone).tobytes()
        name = f"deleted/{segment.key}-{hash_of(bits)[:12]}.bits"
        before.location.put(name, bits)
        if segment.key in tombstones:
            del objects[tombstones[segment.key]["object"]]
        objects[name] = Stored.of(bits)
        tombstones[segment.key] = {"object": name, "n_rows": int(gone.sum())}
    if objects == before.objects:
        return index
    return VectorIndex(publish(before, before.members, objects, {**before.facts, "deleted": tombstones}))


def needs_compaction(index: VectorIndex, segment_cells: int) -> bool:
    """Whether a tenth of the rows is deleted, or more than 16 segments are less than half full."""
    n_rows = sum(segment.n_rows for segment in index.segments)
    small = sum(segment.n_rows < segment_cells // 2 for segment in index.segments)
    return n_rows - index.n_cells > _DELETED_SHARE * n_rows or small > _SMALL_SEGMENTS


def compact(index: VectorIndex, segment_cells: int) -> VectorIndex:
    """A version in which small and thinned-out segments are joined to such of up to `segment_cells` rows.

    Rows, codes and ids stay as they are; inverted lists of joined segments are not kept. Full segments
    without deletions are taken over. The index itself if there is nothing to do.
    """
    before = index.snapshot
    kept = [s for s in index.segments if s.n_live == s.n_rows and s.n_rows >= segment_cells // 2]
    groups = _groups([s for s in index.segments if s not in kept and s.n_live], segment_cells)
    changed = [group for group in groups if len(group) > 1 or group[0].n_live < group[0].n_rows]
    if not changed and len(kept) + len(groups) == len(index.segments):
        return index
    untouched = {segment.key for segment in kept} | {g[0].key for g in groups if g not in changed}
    members = [record for record in before.members if record.key in untouched | {TRANSFORM_KEY}]
    members += [_joined(before, group) for group in changed]
    gone = {segment.key for segment in index.segments} - untouched
    tombstones = {key: entry for key, entry in before.facts["deleted"].items() if key not in gone}
    spent = {entry["object"] for key, entry in before.facts["deleted"].items() if key in gone}
    objects = {name: stored for name, stored in before.objects.items() if name not in spent}
    return VectorIndex(publish(before, members, objects, {**before.facts, "deleted": tombstones}))


def vacuum(index: VectorIndex, older_than_seconds: float) -> list[str]:
    """Delete objects of versions that were replaced longer ago than any search runs, and of writers that gave
    up as long ago; those versions do not open afterwards. Returns the names of what was deleted.
    """
    location, kind = index.snapshot.location, index.snapshot.kind
    newest = open_snapshot(location, kind)
    ages = location.ages()
    needed = set(newest.all_objects)
    for version in range(1, newest.version):
        if ages[snapshot_name(version + 1)] <= older_than_seconds:
            needed |= set(open_snapshot(location, kind, version).all_objects)
    spent = [
        name
        for name in sorted(ages)
        if name.startswith(("segments/", "deleted/"))
        and name not in needed
        and ages[name] > older_than_seconds
    ]
    for name in spent:
        location.delete(name)
    return spent


def _groups(segments: Sequence[Segment], segment_cells: int) -> list[list[Segment]]:
    """Neighbouring segments whose live rows fit into one."""
    groups: list[list[Segment]] = []
    filled = 0
    for segment in segments:
        if groups and filled + segment.n_live <= segment_cells:
            groups[-1].append(segment)
            filled += segment.n_live
        else:
            groups.append([segment])
            filled = segment.n_live
    return groups


def _joined(before: Snapshot, group: Sequence[Segment]) -> Record:
    parts = [
        segment.arrays if segment.live is None else take(segment.arrays, np.flatnonzero(segment.live))
        for segment in group
    ]
    rows = join(parts) if len(parts) > 1 else parts[0]
    rows = take(rows, cell_tables.order_of(rows.obs, before.facts["sort_by"]))
    made_of = [[segment.key, before.facts["deleted"].get(segment.key)] for segment in group]
    return store_segment(before, f"c{hash_of(canonical(made_of))[:12]}", rows)
