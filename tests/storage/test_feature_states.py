"""States of a pass on disk: read by range, refused when damaged, removed when done."""

import numpy as np
import pytest

from storage.commits import Dataset, MemberPlan
from storage.errors import DamagedDataset
from storage.feature_states import (
    plan_states,
    planned_lineage,
    read_range,
    read_tokens,
    remove_states,
    state_objects,
)
from storage.locations import Location


def write(place: Location) -> Dataset:
    dataset = plan_states(place, {"seed": 3}, [MemberPlan("a"), MemberPlan("b")])
    for number, key in enumerate(("a", "b")):
        tokens = {"counts": np.arange(3) + number}
        ranges = [{"key": np.arange(6)[::2] + number}, {"key": np.empty(0, np.int64)}]
        writer = dataset.member(key)
        for name, content in state_objects(key, tokens, ranges):
            writer.put(name, content)
        writer.commit()
    return dataset


def test_parts_read_back(place: Location) -> None:
    dataset = write(place)
    assert read_tokens(dataset, "b")["counts"].tolist() == [1, 2, 3]
    # A strided array must not be written as the memory it looks into.
    assert read_range(dataset, "a", 0)["key"].tolist() == [0, 2, 4]
    assert read_range(dataset, "a", 1)["key"].dtype == np.int64
    assert planned_lineage(place) == {"seed": 3}


def test_a_damaged_state_is_named(near_place: Location) -> None:
    dataset = write(near_place)
    name = "00000/b.safetensors"
    content = near_place.read(name)
    near_place.put(name, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedDataset, match=r"00000/b\.safetensors"):
        read_range(dataset, "b", 0)


def test_removed_states_leave_nothing(place: Location) -> None:
    states = place / "states"
    write(states)
    place.put("beside", b"1")
    remove_states(states)
    assert list(place.list()) == ["beside"]
    assert planned_lineage(states) is None
    remove_states(states)
