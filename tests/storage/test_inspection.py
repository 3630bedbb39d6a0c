"""Inspection: every kind of dataset, finished or not, sound or not."""

from pathlib import Path

import pytest

from storage.errors import DamagedDataset, InputError
from storage.inspection import describe
from storage.locations import Location
from tests.storage import test_embeddings, test_features
from tests.storage.activations import test_activations
from tests.storage.small_datasets import planned, write, write_all


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return Location.of(tmp_path / "place")


def test_a_finished_dataset(place: Location) -> None:
    write_all(place)
    place.put("run.json", b'{"job": "test", "started": "today", "wall_seconds": 1.5, "options": {}}')
    facts = describe(place, verify=True).facts
    assert (facts["kind"], facts["state"], facts["checked"]) == ("test", "finished", "sizes and hashes")
    assert facts["members_committed"] == facts["members_planned"] == 3
    assert facts["objects"] == 7
    assert facts["bytes"] == sum(size for name, size in place.list().items() if name[0] in "abz")
    assert facts["lineage"]["model"] == "abc"
    assert facts["run"] == {"job": "test", "started": "today", "wall_seconds": 1.5}
    assert facts["rows"] == 30


def test_an_unfinished_dataset(location: Location) -> None:
    dataset = planned(location)
    write(dataset, "01")
    dataset.claim("00", "someone", 60)
    facts = describe(location, verify=True).facts
    assert (facts["members_committed"], facts["members_planned"]) == (1, 3)
    assert facts["state"].startswith("not finished")
    assert facts["pending"] == ["00", "02"]
    assert facts["leases"] == ["_lease/00/0"]


@pytest.mark.parametrize("finished", [True, False])
def test_damage_is_listed_by_name(location: Location, finished: bool) -> None:
    if finished:
        write_all(location)
    else:
        write(planned(location), "01")
    content = location.read("a/01")
    location.put("a/01", b"?" + content[1:])
    assert describe(location).problems == []
    assert [line.split(":")[0] for line in describe(location, verify=True).problems] == ["a/01"]
    location.delete("b/01")
    assert describe(location).problems == ["b/01: missing"]
    location.put("_log/00000000.json", b"{}")
    with pytest.raises(DamagedDataset, match=r"_log/00000000\.json"):
        describe(location)


def test_samples_of_each_kind(location: Location) -> None:
    from storage import embeddings

    e_CD = test_embeddings.matrix()
    dataset = test_embeddings.write(location / "embeddings", e_CD)
    embeddings.finish_embeddings(dataset, test_embeddings.observations())
    sample = describe(location / "embeddings").sample
    assert f"cell 1: [{e_CD[1, 0]:.4f}, " in sample
    assert "cell_type" in sample

    test_activations.write(location / "activations")
    sample = describe(location / "activations").sample
    assert "hooks resid_post_0, resid_post_1; width 3; stored in bf16" in sample

    test_features.write(location / "features")
    sample = describe(location / "features").sample
    assert "top_gene" in sample

    write_all(location / "other")
    assert "member 00: {'rows': 10}" in describe(location / "other").sample


def test_damage_met_by_the_sample_is_a_problem_not_a_crash(location: Location) -> None:
    test_features.write(location)
    content = location.read("features/00000.parquet")
    location.put("features/00000.parquet", bytes([content[0] ^ 1]) + content[1:])
    (problem,) = describe(location).problems
    assert "features/00000.parquet" in problem


def test_anything_else_is_refused(place: Location) -> None:
    with pytest.raises(InputError, match="nothing is there"):
        describe(place)
    place.put("notes.txt", b"")
    with pytest.raises(InputError, match=r"there are notes\.txt"):
        describe(place)
