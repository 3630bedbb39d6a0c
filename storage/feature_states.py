"""States of a feature pass on disk, so that an interrupted pass goes on where it was.

    tokens/<key>.safetensors             what a member's tokens add up to, whatever the feature
    <range>/<key>.safetensors            the same member, for one range of features

One member is some cells; its objects are the named arrays of `engine.interpret.state`. They are cut by
ranges of features because one worker merges one range: it reads only what it needs. The dataset is of use
until the tables are made from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from storage.commits import Dataset, MemberPlan, Stored
from storage.errors import DamagedDataset, InputError
from storage.locations import Location

KIND = "feature_states"

Arrays = Mapping[str, npt.NDArray[Any]]


def plan_states(location: Location, lineage: Mapping[str, Any], members: Sequence[MemberPlan]) -> Dataset:
    """Start (or take up) the states of a pass. Raises what `Dataset.plan` raises."""
    return Dataset.plan(location, kind=KIND, lineage=lineage, members=members)


def state_objects(key: str, tokens: Arrays, ranges: Iterable[Arrays]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the objects of one member."""
    yield _name("tokens", key), _encoded(tokens)
    for number, arrays in enumerate(ranges):
        yield _name(f"{number:05d}", key), _encoded(arrays)


def read_tokens(dataset: Dataset, key: str) -> dict[str, npt.NDArray[Any]]:
    """Raises FileNotFoundError, DamagedDataset."""
    return _read(dataset, _name("tokens", key), key)


def read_range(dataset: Dataset, key: str, number: int) -> dict[str, npt.NDArray[Any]]:
    """Raises FileNotFoundError, DamagedDataset."""
    return _read(dataset, _name(f"{number:05d}", key), key)


def _name(part: str, key: str) -> str:
    return f"{part}/{key}.safetensors"


def _encoded(arrays: Arrays) -> bytes:
    content: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return content


def _read(dataset: Dataset, name: str, key: str) -> dict[str, npt.NDArray[Any]]:
    content = dataset.location.read(name)
    stored = dataset.record(key).objects.get(name)
    if stored != Stored.of(content):
        raise DamagedDataset(f"{dataset.location}/{name}: not what was committed; run with --overwrite")
    arrays: dict[str, npt.NDArray[Any]] = load(content)
    return arrays


def planned_lineage(location: Location) -> Mapping[str, Any] | None:
    """Lineage of the pass that was begun at a location, None where there is none."""
    try:
        return Dataset.open(location).lineage
    except InputError:
        return None


def remove_states(location: Location) -> None:
    """Delete all states. Commit records first: a kill in between must not leave a record without objects."""
    names = list(location.list())
    for name in sorted(names, key=lambda name: not name.startswith("_log/member-")):
        location.delete(name)
    location.delete_all()
    if location.local is not None and location.local.is_dir():
        location.local.rmdir()
