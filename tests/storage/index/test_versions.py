"""Versions of an index: what a change makes true at once, what it leaves alone, and what may go."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from storage.commits import Dataset, MemberPlan
from storage.errors import DamagedDataset, InputError
from storage.index import KIND, SegmentArrays, ShortCodes, VectorIndex, cell_tables, versions
from storage.index.reader import TRANSFORM, TRANSFORM_KEY
from storage.index.segments import make_segment, segment_facts, segment_objects
from storage.locations import Location

WIDTH, SHORT = 24, 8


def vectors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32)


def observations(n: int, first: int = 0) -> pd.DataFrame:
    index = [f"cell{row}" for row in range(first, first + n)]
    return pd.DataFrame({"organ": pd.Categorical(["b", "a", None] * n)[:n]}, index=index)


CODES = ShortCodes.fit(vectors(200) / np.linalg.norm(vectors(200), axis=1)[:, None], SHORT, "principal")


def segment(start: int, stop: int) -> SegmentArrays:
    obs = cell_tables.table_of(observations(stop - start, start))
    return make_segment([vectors(200)[start:stop]], obs, start, CODES, ["organ"])


def write(place: Location, n_cells: int = 60, size: int = 20) -> VectorIndex:
    starts = range(0, n_cells, size)
    members = [MemberPlan(TRANSFORM_KEY), *(MemberPlan(f"{start:05d}") for start in starts)]
    dataset = Dataset.plan(place, kind=KIND, lineage={"made": "here"}, members=members)
    writer = dataset.member(TRANSFORM_KEY)
    writer.put(TRANSFORM, CODES.to_bytes())
    writer.commit()
    for start in starts:
        rows = segment(start, start + size)
        writer = dataset.member(f"{start:05d}")
        for name, content in segment_objects(f"{start:05d}", rows):
            writer.put(name, content)
        writer.commit(segment_facts(rows))
    facts = {"width": WIDTH, "short_width": SHORT, "sources": [], "next_id": n_cells, "deleted": {}}
    dataset.finish(facts={**facts, "sort_by": ["organ"]})
    return VectorIndex.open(place)


def cells(index: VectorIndex) -> list[int]:
    live = [s.arrays.ids if s.live is None else s.arrays.ids[s.live] for s in index.segments]
    return sorted(np.concatenate(live).tolist())


def test_rows_are_what_was_put_in(near_place: Location) -> None:
    index = write(near_place)
    arrays = index.segments[1].arrays
    assert arrays.obs["organ"].to_pylist() == sorted(arrays.obs["organ"].to_pylist(), key=lambda o: o or "z")
    mine = vectors(200)[arrays.ids]
    np.testing.assert_allclose(arrays.norms, np.linalg.norm(mine, axis=1), rtol=1e-6)
    unit = mine / np.linalg.norm(mine, axis=1)[:, None]
    np.testing.assert_allclose(arrays.vectors, unit, atol=5e-4)
    np.testing.assert_array_equal(arrays.short, index.codes.encode(unit))
    assert index.annotations(np.array([59, 0]))["name"].tolist() == ["cell59", "cell0"]
    with pytest.raises(KeyError, match="no cell 60"):
        index.annotations(np.array([60]))


def test_opening_maps_and_copies_nothing(tmp_path: Path) -> None:
    index = write(Location.of(tmp_path))
    for array in index.segments[0].arrays[:4]:
        base = array
        while isinstance(base.base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    index.segments[0].arrays.vectors[:] = 0
    assert VectorIndex.open(str(tmp_path)).segments[0].arrays.vectors.any()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert index.warm() > 0


def test_deleting(near_place: Location) -> None:
    first = write(near_place)
    second = versions.delete(first, np.array([0, 1, 25, 1_000]))
    third = versions.delete(second, np.array([1, 26]))
    assert [index.version for index in (first, second, third)] == [1, 2, 3]
    assert versions.delete(third, np.array([26, 1_000])) is third
    assert cells(first) == list(range(60))
    assert cells(second) == sorted(set(range(60)) - {0, 1, 25})
    assert cells(third) == cells(VectorIndex.open(near_place)) == sorted(set(range(60)) - {0, 1, 25, 26})
    assert (third.n_cells, [segment.n_live for segment in third.segments]) == (56, [18, 18, 20])
    assert cells(VectorIndex.open(near_place, 2)) == cells(second)
    assert not third.snapshot.verify()


def test_appending(near_place: Location) -> None:
    first = write(near_place)
    record = versions.store_segment(first.snapshot, "more", segment(60, 75))
    assert VectorIndex.open(near_place).n_cells == 60
    second = versions.append(first, [record], {"dataset_id": "x", "n_cells": 15})
    assert (second.n_cells, second.facts["next_id"], cells(second)) == (75, 75, list(range(75)))
    with pytest.raises(InputError, match="another process changed the index after version 1"):
        versions.append(first, [record], {"dataset_id": "y", "n_cells": 15})
    with pytest.raises(InputError, match="no version 3; there are 1 to 2"):
        VectorIndex.open(near_place, 3)


def test_compacting_keeps_every_row(near_place: Location) -> None:
    index = versions.delete(write(near_place), np.arange(10, 30))
    assert versions.needs_compaction(index, 20)
    compacted = versions.compact(index, 50)
    assert [segment.n_rows for segment in compacted.segments] == [40]
    assert not versions.needs_compaction(compacted, 20)
    assert compacted.facts["deleted"] == {}
    assert cells(compacted) == cells(index)
    rows = compacted.segments[0].arrays
    assert rows.obs["organ"].to_pylist() == sorted(rows.obs["organ"].to_pylist(), key=lambda o: o or "z")
    where = {int(cell): row for row, cell in enumerate(rows.ids)}
    for segment_ in index.segments:
        old = segment_.arrays
        for row in np.flatnonzero(np.isin(old.ids, rows.ids)):
            new = where[int(old.ids[row])]
            np.testing.assert_array_equal(old.vectors[row], rows.vectors[new])
            np.testing.assert_array_equal(old.short[row], rows.short[new])
            assert old.obs["name"][row].as_py() == rows.obs["name"][new].as_py()
    assert versions.compact(compacted, 50) is compacted


def test_full_segments_are_taken_over(near_place: Location) -> None:
    index = versions.delete(write(near_place), np.arange(20, 36))
    compacted = versions.compact(index, 20)
    assert [segment.key for segment in compacted.segments][:2] == ["00000", "00040"]
    assert [segment.n_rows for segment in compacted.segments] == [20, 20, 4]


def test_vacuum_takes_only_what_no_version_needs(near_place: Location) -> None:
    index = versions.compact(versions.delete(write(near_place), np.arange(50)), 50)
    assert versions.vacuum(index, 3_600) == []
    gone = versions.vacuum(index, -1)
    assert {name.split("/")[1][:5] for name in gone if name.startswith("segments/")} == {
        "00000",
        "00020",
        "00040",
    }
    assert not VectorIndex.open(near_place).snapshot.verify()
    with pytest.raises(DamagedDataset, match="missing"):
        VectorIndex.open(near_place, 1)


def test_vacuum_leaves_what_was_current_a_moment_ago(tmp_path: Path) -> None:
    first = write(Location.of(tmp_path))
    for file in tmp_path.rglob("*"):
        os.utime(file, (1, 1))
    second = versions.compact(versions.delete(first, np.arange(50)), 50)
    assert versions.vacuum(second, 60) == []
    assert cells(VectorIndex.open(str(tmp_path), 1)) == list(range(60))
    for file in tmp_path.rglob("*"):
        os.utime(file, (1, 1))
    assert len(versions.vacuum(second, 60)) == 3 * 5 + 3
    assert cells(VectorIndex.open(str(tmp_path))) == list(range(50, 60))


def test_a_missing_object_is_an_error_by_name(near_place: Location) -> None:
    write(near_place)
    near_place.delete("segments/00020/short.i8")
    with pytest.raises(DamagedDataset, match=r"segments/00020/short\.i8: missing"):
        VectorIndex.open(near_place)


def test_joined_tables_with_different_columns() -> None:
    tables = [
        cell_tables.table_of(observations(3)),
        cell_tables.table_of(pd.DataFrame({"age": [1.5, 2.5], "name": ["x", "y"]}, index=["p", "q"])),
    ]
    together = cell_tables.joined(tables)
    assert together["name"].to_pylist() == ["cell0", "cell1", "cell2", "p", "q"]
    assert together["organ"].to_pylist() == ["b", "a", None, None, None]
    assert together["age"].to_pylist() == [None, None, None, 1.5, 2.5]
    assert together["obs_name"].to_pylist() == [None, None, None, "x", "y"]


def test_columns_to_sort_by() -> None:
    obs = pd.DataFrame(
        {
            "same": ["x"] * 8,
            "tissue": list("aabbaabb"),
            "donor": pd.Categorical(list("abcdabcd")),
            "count": range(8),
            "type": list("abcabcab"),
        }
    )
    assert cell_tables.columns_to_sort_by(obs) == ["tissue", "type", "donor"]
    table = cell_tables.table_of(obs)
    assert cell_tables.order_of(table, ["tissue", "donor"]).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert cell_tables.order_of(table, ["absent"]).tolist() == list(range(8))
    assert pa.types.is_dictionary(table["donor"].type)
