"""Writing one member of a dataset: its objects, and the record that makes them true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from storage.durable_files import Content
from storage.errors import DamagedDataset
from storage.protocol.lineage import MemberPlan, as_json
from storage.protocol.snapshots import LEASES, LOG, Record, Stored, record_name, seal

if TYPE_CHECKING:
    from storage.commits import Dataset


class MemberWriter:
    """Writes the objects of one member and commits them."""

    def __init__(self, dataset: Dataset, plan: MemberPlan) -> None:
        self.plan = plan
        self._dataset = dataset
        self._objects: dict[str, Stored] = {}
        self._committed = dataset.record(plan.key) if dataset.location.exists(record_name(plan.key)) else None

    def put(self, name: str, content: Content) -> None:
        """Write one object under its final name, relative to the dataset.

        If the member is committed already nothing is written, and other bytes than the committed ones raise
        DamagedDataset.
        """
        refuse_reserved(name)
        stored = Stored.of(content)
        if self._committed is None:
            self._dataset.location.put(name, content)
        elif self._committed.objects.get(name) != stored:
            raise DamagedDataset(self._differs([name]))
        self._objects[name] = stored

    def commit(self, facts: Mapping[str, Any] | None = None) -> Record:
        """Create the record; from here on the member exists. `facts` must be as deterministic as the objects.

        When another worker was first, its record is returned after comparing: raises DamagedDataset when the
        two differ, and LineageMismatch when the directory has meanwhile been given to another plan.
        """
        mine = Record(self.plan.key, dict(self._objects), as_json(facts or {}))
        self._dataset.require_current()
        if self._committed is None:
            self._require_objects_present()
            body = {**mine.as_json(), "lineage_id": self._dataset.lineage_id}
            if self._dataset.location.create(record_name(mine.key), seal(body)):
                return mine
            self._committed = self._dataset.record(mine.key)
        if self._committed.id != mine.id:
            ours, theirs = mine.objects, self._committed.objects
            names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
            raise DamagedDataset(self._differs(names or ["facts"]))
        return self._committed

    def _require_objects_present(self) -> None:
        """Guards against a garbage collector that thought this writer dead."""
        location = self._dataset.location
        for name, stored in self._objects.items():
            found = location.size(name) if location.exists(name) else None
            if found != stored.size:
                raise DamagedDataset(
                    f"{location}/{name}: {'gone' if found is None else f'{found} bytes'} before its member "
                    f"was committed; {stored.size} bytes were written. Run the job again"
                )

    def _differs(self, names: Iterable[str]) -> str:
        return (
            f"{self._dataset.location}: member {self.plan.key!r} is committed with other content "
            f"({', '.join(names)}) than this worker made from the same plan; the library versions differ "
            "between workers. Check with `inspect --verify`, and write the dataset again with --overwrite"
        )


def refuse_reserved(name: str) -> None:
    """Raises ValueError for a name that belongs to the protocol."""
    if name.startswith((f"{LOG}/", f"{LEASES}/")):
        raise ValueError(f"{name!r}: names under {LOG}/ and {LEASES}/ belong to the commit protocol")
