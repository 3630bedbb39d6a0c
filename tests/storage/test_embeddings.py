"""Embeddings: committed chunks that are one AnnData, and a reader that never invents a value."""

import pickle
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import embeddings
from storage.commits import Dataset, MemberPlan
from storage.embeddings import Embeddings
from storage.errors import DamagedDataset, InputError
from storage.locations import Location

N_CELLS, WIDTH, CHUNK = 23, 5, 8


def observations(n_cells: int = N_CELLS) -> pd.DataFrame:
    cell_type = pd.Series(["B", None, "T", "B"] * n_cells, dtype=object)[:n_cells].to_numpy()
    return pd.DataFrame(
        {
            "cell_type": cell_type,
            "batch": pd.Categorical(["a", "b"] * n_cells)[:n_cells],
            "donor": [f"donor {row % 3}" for row in range(n_cells)],
            "n_counts": np.arange(n_cells),
        },
        index=[f"cell{row}" for row in range(n_cells)],
    )


def write(place: Location, e_CD: np.ndarray, chunk: int = CHUNK) -> Dataset:
    starts = range(0, len(e_CD), chunk)
    members = [
        MemberPlan(f"{number:06d}", {"start": start, "stop": min(start + chunk, len(e_CD))})
        for number, start in enumerate(starts)
    ]
    dataset = Dataset.plan(
        place, kind=embeddings.KIND, lineage={"model": "abc", "layer": None}, members=members
    )
    for member in dataset.pending():
        start, stop = member.facts["start"], member.facts["stop"]
        writer = dataset.member(member.key)
        chunk_bytes = embeddings.embedding_chunk(e_CD[start:stop], member.key, start)
        writer.put(embeddings.chunk_name(member.key), chunk_bytes)
        writer.put(embeddings.token_counts_name(member.key), np.arange(start, stop, dtype=np.int32).tobytes())
        writer.commit(member.facts)
    return dataset


def matrix(n_cells: int = N_CELLS) -> np.ndarray:
    e_CD = np.random.default_rng(0).normal(size=(n_cells, WIDTH)).astype(np.float32)
    e_CD[min(3, n_cells - 1)] = np.nan  # a cell without tokens
    return e_CD


@pytest.mark.parametrize("n_cells", [1, 7, 8, 9, 16, 23])
def test_anndata_opens_it_whole(tmp_path: Path, n_cells: int) -> None:
    place, e_CD = Location.of(tmp_path), matrix(n_cells)
    dataset = write(place, e_CD)
    obs = observations(n_cells)
    obs["n_tokens"] = embeddings.read_token_counts(dataset)
    embeddings.finish_embeddings(dataset, obs, uns={"note": "hello"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = anndata.read_zarr(tmp_path)
    np.testing.assert_array_equal(read.X, e_CD)
    assert list(read.obs_names) == list(obs.index)
    assert read.obs["n_tokens"].tolist() == list(range(n_cells))
    assert read.obs["donor"].tolist() == obs["donor"].tolist()
    assert read.obs["cell_type"].astype(object).where(read.obs["cell_type"].notna(), None).tolist() == (
        obs["cell_type"].tolist()
    )
    assert read.uns["note"] == "hello"
    assert read.uns["syncytium"]["lineage"] == '{"layer": null, "model": "abc"}'
    assert zarr.open(str(tmp_path))["X"].chunks == (min(CHUNK, n_cells), WIDTH)


def test_our_reader(place: Location) -> None:
    e_CD = matrix()
    embeddings.finish_embeddings(write(place, e_CD), observations())
    found = pickle.loads(pickle.dumps(Embeddings.open(place)))
    assert len(found) == N_CELLS
    np.testing.assert_array_equal(found.X, e_CD)
    assert found.obs["donor"].tolist() == observations()["donor"].tolist()
    assert found.lineage["model"] == "abc"
    assert found.uns["syncytium"]["lineage_id"] == found.snapshot.lineage_id


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.tuples(st.integers(0, N_CELLS), st.integers(0, N_CELLS)).map(sorted))
def test_any_rows(tmp_path_factory: pytest.TempPathFactory, cut: list[int]) -> None:
    start, stop = cut
    e_CD, place = matrix(), Location.of(tmp_path_factory.getbasetemp() / "any_rows")
    embeddings.finish_embeddings(write(place, e_CD), observations())
    np.testing.assert_array_equal(Embeddings.open(place).read(start, stop), e_CD[start:stop])


def test_rows_outside_are_refused(near_place: Location) -> None:
    embeddings.finish_embeddings(write(near_place, matrix()), observations())
    with pytest.raises(IndexError, match="rows 0 to 24 of 23"):
        Embeddings.open(near_place).read(0, 24)


def test_the_same_work_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in "ab":
        place = Location.of(tmp_path / name)
        embeddings.finish_embeddings(write(place, matrix()), observations())
        contents.append({name: place.read(name) for name in place.list()})
    assert contents[0] == contents[1]


def test_a_missing_chunk_is_an_error_by_name_not_a_fill_value(near_place: Location) -> None:
    embeddings.finish_embeddings(write(near_place, matrix()), observations())
    found = Embeddings.open(near_place)
    near_place.delete("X/c/1/0")
    with pytest.raises(DamagedDataset, match="X/c/1/0: missing"):
        found.read(8, 9)
    assert found.read(0, 8).shape == (8, WIDTH)
    with pytest.raises(DamagedDataset, match="X/c/1/0: missing"):
        Embeddings.open(near_place)


def test_a_flipped_bit_is_an_error_by_name_also_for_anndata(tmp_path: Path) -> None:
    place = Location.of(tmp_path)
    embeddings.finish_embeddings(write(place, matrix()), observations())
    content = bytearray(place.read("X/c/2/0"))
    content[5] ^= 4
    place.put("X/c/2/0", content)
    with pytest.raises(DamagedDataset, match="X/c/2/0"):
        Embeddings.open(place).read(20, 21)
    with pytest.raises(Exception, match=r"[Cc]hecksum|crc"):
        anndata.read_zarr(tmp_path)


def test_an_unfinished_dataset_does_not_open(near_place: Location) -> None:
    write(near_place, matrix())
    with pytest.raises(InputError, match="3 of 3 members"):
        Embeddings.open(near_place)


def test_what_does_not_fit_is_refused(near_place: Location) -> None:
    dataset = write(near_place, matrix())
    with pytest.raises(ValueError, match="obs has 22 rows, the members 23 cells"):
        embeddings.finish_embeddings(dataset, observations(22))
    with pytest.raises(ValueError, match="equal size"):
        embeddings.embedding_chunk(matrix(), "000002", 16)
    empty = Dataset.plan(near_place / "empty", kind=embeddings.KIND, lineage={}, members=[])
    with pytest.raises(InputError, match="no cells"):
        embeddings.finish_embeddings(empty, observations(0))


def test_any_rows_in_any_order(tmp_path: Path) -> None:
    e_CD = matrix()
    for place in (Location.of(tmp_path / "local"), Location.of("memory://rows-of-embeddings")):
        dataset = write(place, e_CD)
        embeddings.finish_embeddings(dataset, observations())
        stored = Embeddings.open(place)
        cells = np.array([22, 0, 9, 9, 16, 3])
        assert np.array_equal(stored.rows(cells), e_CD[cells], equal_nan=True)
        assert stored.rows(np.array([], np.int64)).shape == (0, WIDTH)
        with pytest.raises(IndexError):
            stored.rows(np.array([0, N_CELLS]))


def test_damage_is_found_when_a_chunk_is_mapped(tmp_path: Path) -> None:
    embeddings.finish_embeddings(write(Location.of(tmp_path), matrix()), observations())
    chunk = tmp_path / embeddings.chunk_name("1")
    content = bytearray(chunk.read_bytes())
    content[7] ^= 1
    chunk.write_bytes(content)
    stored = Embeddings.open(tmp_path)
    assert stored.rows(np.array([0])).shape == (1, WIDTH)
    with pytest.raises(DamagedDataset, match="X/c/1/0"):
        stored.rows(np.array([CHUNK]))
