"""A dataset of three small members, for the tests of the protocol itself."""

from typing import Any

from storage.commits import Dataset, MemberPlan
from storage.locations import Location

MEMBERS = [MemberPlan(f"{number:02d}", {"start": number * 10}) for number in range(3)]
LINEAGE = {"model": "abc", "seed": 1, "hooks": ("a", "b"), "tokens": {"max": 5}}


def planned(place: Location | str, **changes: Any) -> Dataset:
    return Dataset.plan(place, **{"kind": "test", "lineage": LINEAGE, "members": MEMBERS, **changes})


def write(dataset: Dataset, key: str) -> None:
    writer = dataset.member(key)
    writer.put(f"a/{key}", f"a of {key}".encode() * 100)
    writer.put(f"b/{key}", f"b of {key}".encode())
    writer.commit({"rows": 10})


def write_all(place: Location | str) -> Dataset:
    dataset = planned(place)
    for member in dataset.pending():
        write(dataset, member.key)
    dataset.finish({"zarr.json": b"{}"}, {"rows": 30})
    return dataset
