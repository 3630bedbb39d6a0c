"""Searches find what comparing everything finds, whichever way; conditions and shards lose nothing."""

import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.retrieval import plan
from engine.retrieval.build import IndexOptions, Source, append, build
from engine.retrieval.found import Found
from engine.retrieval.plan import Shortlist, probes_for, way_of
from engine.retrieval.search import Searcher
from engine.retrieval.shards import merged, shares
from storage.errors import InputError, LineageMismatch
from storage.index import VectorIndex, versions
from storage.locations import Location
from tests.retrieval.inputs import brute_force, built, clustered, write_embeddings

N_CELLS = 3_000
CELLS, OBS = clustered(N_CELLS)
EVERY = np.ones(N_CELLS, bool)
# Between cells, and far from any.
QUERIES = [*clustered(6, seed=5)[0], -CELLS[0], CELLS[3] + CELLS[4]]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> VectorIndex:
    return built(Location.of(tmp_path_factory.mktemp("index")), ivf_lists=16)


def recall(found: Found, expected: np.ndarray) -> float:
    return float(np.isin(expected, found.cell).mean())


def test_a_built_index(index: VectorIndex) -> None:
    assert index.n_cells == N_CELLS
    assert [segment.n_rows for segment in index.segments] == [1_024, 1_024, 952]
    assert index.facts["sort_by"] == ["tissue", "cell_type"]
    rows = index.segments[1].arrays
    assert sorted(rows.ids) == list(range(1_024, 2_048))
    tissue = rows.obs["tissue"].to_pylist()
    assert tissue == sorted(tissue)
    norms = np.linalg.norm(CELLS[rows.ids], axis=1)
    np.testing.assert_allclose(rows.norms, norms, rtol=1e-6)
    np.testing.assert_allclose(rows.vectors, CELLS[rows.ids] / norms[:, None], atol=5e-4)
    assert index.annotations(np.array([2_999, 0]))["name"].tolist() == ["cell0-2999", "cell0-0"]
    assert max(index.facts["shortlist"]["recalls"].values()) == 1.0


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_exact_search_is_brute_force(index: VectorIndex, k: int, metric: str) -> None:
    searcher = Searcher(index)
    for query in QUERIES:
        found = searcher.search(query, k, how="exact", metric=metric)
        if metric == "cosine":
            np.testing.assert_allclose(
                found.score, cosines(query)[brute_force(CELLS, query, EVERY, k)], atol=1e-3
            )
        else:
            products = CELLS @ (query / np.linalg.norm(query))
            np.testing.assert_allclose(found.score, np.sort(products)[::-1][:k], atol=5e-3)
        # float16 may turn round two cells that are as near; no more than that.
        assert (np.diff(found.score) <= 0).all()
        assert found.ways in ({"scan": 3}, {"gather": 3})


def cosines(query: np.ndarray) -> np.ndarray:
    return CELLS @ query / np.linalg.norm(CELLS, axis=1) / np.linalg.norm(query)


@pytest.mark.parametrize("how", ["auto", "shortlist", "ivf"])
def test_other_ways_find_the_same(index: VectorIndex, how: str) -> None:
    searcher = Searcher(index)
    for query in QUERIES[:6]:
        exact = searcher.search(query, 10, how="exact")
        found = searcher.search(query, 10, how=how, probes=16)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.cell, exact.cell)
        np.testing.assert_allclose(found.score, exact.score, atol=1e-6)
        assert how in found.ways or how == "auto"


@pytest.mark.parametrize(
    ("where", "allowed"),
    [
        ("tissue = 'lung'", OBS["tissue"] == "lung"),
        ("cell_type in ('type 3', 'type 4')", OBS["cell_type"].isin(["type 3", "type 4"])),
        ("n_genes < 150", OBS["n_genes"] < 150),
        ("row in (7, 2999)", np.isin(np.arange(N_CELLS), [7, 2_999])),
        ("n_genes < 0", np.zeros(N_CELLS, bool)),
    ],
)
@pytest.mark.parametrize("how", ["auto", "exact", "shortlist", "ivf"])
def test_conditions_lose_nothing(index: VectorIndex, how: str, where: str, allowed: np.ndarray) -> None:
    """Also where what passes is nowhere near the query: a condition that goes with the clusters."""
    searcher, allowed = Searcher(index), np.asarray(allowed)
    for query in QUERIES:
        found = searcher.search(
            query, 10, where=where, how=how, shortlist=400 if how == "shortlist" else None
        )
        assert found.n_passing == allowed.sum()
        assert allowed[found.cell].all()
        assert len(found.cell) == min(10, allowed.sum())
        expected = cosines(query)[brute_force(CELLS, query, allowed, 10)]
        np.testing.assert_allclose(found.score, expected, atol=1e-3)


def test_scores_of_all_cells(index: VectorIndex) -> None:
    scores = Searcher(index).scores(QUERIES[0])
    np.testing.assert_allclose(scores, cosines(QUERIES[0])[index.ids], atol=2e-3)


def test_mean_of_cells(index: VectorIndex) -> None:
    vector, n_cells = Searcher(index).mean("cell_type = 'type 5'")
    mine = CELLS[(OBS["cell_type"] == "type 5").to_numpy()]
    assert n_cells == len(mine)
    np.testing.assert_allclose(vector, (mine / np.linalg.norm(mine, axis=1)[:, None]).mean(0), atol=1e-3)


def test_shards_answer_as_one_and_say_when_one_is_missing(index: VectorIndex) -> None:
    parts = shares(index.segments, 2)
    assert sorted(key for part in parts for key in part) == ["00000", "00001", "00002"]
    again = pickle.loads(pickle.dumps(index))
    shards = [Searcher(again, [s for s in again.segments if s.key in keys]) for keys in parts]
    for query in QUERIES:
        whole = Searcher(index).search(query, 20, where="n_genes > 1000")
        answers = [shard.search(query, 20, where="n_genes > 1000") for shard in shards]
        together = merged(answers, 20, 2)
        np.testing.assert_array_equal(together.cell, whole.cell)
        assert (together.n_passing, together.is_partial) == (whole.n_passing, False)
        some = merged(answers[:1], 20, 2)
        assert (some.is_partial, some.shards) == (True, (1, 2))
        assert np.isin(some.cell, np.concatenate([s.arrays.ids for s in shards[0].segments])).all()


def test_ties_come_in_the_order_of_cells(tmp_path: Path) -> None:
    place = Location.of(tmp_path)
    write_embeddings(place / "e", np.repeat(CELLS[:2], 40, axis=0), OBS.iloc[:80])
    index, _ = build(Source.open(place / "e", None, None), place / "i", IndexOptions(8, segment_cells=32))
    for how in ("exact", "auto"):
        assert Searcher(index).search(CELLS[0], 5, how=how).cell.tolist() == [0, 1, 2, 3, 4]  # type: ignore[arg-type]


def test_cells_without_a_vector_are_left_out(near_place: Location) -> None:
    vectors = CELLS[:50].copy()
    vectors[3], vectors[7] = np.nan, 0
    write_embeddings(near_place / "e", vectors, OBS.iloc[:50], chunk=16)
    source = Source.open(near_place / "e", ("tissue",), None)
    index, did_work = build(source, near_place / "i", IndexOptions(8, "leading"))
    assert (index.n_cells, did_work) == (48, True)
    assert index.segments[0].arrays.obs.column_names == ["name", "tissue"]
    found = Searcher(VectorIndex.open(near_place / "i")).search(CELLS[5], 48)
    assert set(found.cell) == set(range(50)) - {3, 7}
    with pytest.raises(InputError, match="has no direction"):
        Searcher(index).search(vectors[3])
    index, did_work = build(source, near_place / "i", IndexOptions(8, "leading"))
    assert not did_work
    with pytest.raises(LineageMismatch, match="short_width"):
        build(source, near_place / "i", IndexOptions(9, "leading"))


def test_appending(tmp_path: Path) -> None:
    place = Location.of(tmp_path)
    first = built(place, 200)
    more, obs = clustered(100, seed=3)
    write_embeddings(place / "more", more, obs.drop(columns="score").assign(donor="D9"))
    source = Source.open(place / "more", None, None)
    index, did_work = append(first, source, IndexOptions(segment_cells=64))
    assert (index.n_cells, index.version, did_work) == (300, 2, True)
    for row in (0, 99):
        assert Searcher(index).search(more[row], 1).cell.tolist() == [200 + row]
    assert len(Searcher(index).cells("donor = 'D9' and score is missing")) == 100
    assert append(index, source, IndexOptions()) == (index, False)
    # The earlier version is what it was, and its next one exists: whoever is late is told.
    assert VectorIndex.open(place / "index", 1).n_cells == 200
    with pytest.raises(InputError, match="another process changed the index after version 1"):
        versions.delete(first, np.array([0]))
    write_embeddings(place / "other", more, obs, model="another")
    with pytest.raises(InputError, match="Vectors of two models cannot be compared"):
        append(index, Source.open(place / "other", None, None), IndexOptions())


def test_a_shortlist_that_was_not_good_enough_is_not_used(index: VectorIndex) -> None:
    searcher = Searcher(index)
    searcher._shortlist = Shortlist(N_CELLS, {100: 0.5, 200: 0.98})
    assert "shortlist" not in searcher.search(QUERIES[0]).ways
    with pytest.raises(InputError, match="no shortlist held 99% of the true neighbours"):
        searcher.search(QUERIES[0], how="shortlist")
    assert searcher.search(QUERIES[0], how="shortlist", shortlist=50).ways == {"shortlist": 3}


def test_lists_are_looked_into_as_far_as_was_measured(index: VectorIndex) -> None:
    measured = index.facts["shortlist"]["probes"]
    assert set(measured) == {"8", "16", "32", "64", "128", "256"}
    # Sixteen are all there are.
    assert measured["8"] <= measured["16"] == measured["256"] == 1.0
    searcher = Searcher(index)
    searcher.warm()
    assert "ivf" not in searcher.search(QUERIES[0]).ways, "so few rows are read sooner than lists are"
    looked_into: list[int] = []
    for lists in map(searcher._inverted, index.segments):
        lists.near = lambda query, k, probes, near=lists.near: (  # type: ignore[method-assign]
            looked_into.append(probes) or near(query, k, probes)
        )
    # As if rows were dear and lists were cheap: in a million rows they are.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_LISTED", 1e-3)
        patch.setattr(plan, "_CENTRE", 1e-3)
        searcher._probes = {4: 0.98, 8: 0.995, 16: 1.0}
        for query in QUERIES:
            found = searcher.search(query, 10)
            assert found.ways == {"ivf": 3}
            np.testing.assert_array_equal(found.cell, searcher.search(query, 10, how="exact").cell)
        searcher.search(QUERIES[0], 20)
        assert set(looked_into) == {16, 32}
        assert "ivf" not in searcher.search(QUERIES[0], where="tissue = 'lung'").ways
        assert "ivf" not in searcher.search(QUERIES[0], metric="dot").ways
        assert "ivf" not in searcher.search(QUERIES[0], shortlist=50).ways
        searcher._probes = {4: 0.98}
        assert "ivf" not in searcher.search(QUERIES[0]).ways, "no number of lists held enough"


def test_lists_that_hold_too_few_are_not_the_only_ones_looked_into(index: VectorIndex) -> None:
    found = Searcher(index).search(QUERIES[0], 600, how="ivf", probes=1)
    assert len(found.cell) == 600


def test_plans() -> None:
    measured = Shortlist(50_000, {100: 0.9, 200: 0.991, 400: 1.0})
    assert measured.length(50_000, 10) == 400
    assert measured.length(100_000, 10) == 800
    assert measured.length(50_000, 100) == 4_000
    assert way_of(1_000_000, 1_000_000, 1_600) == "shortlist"
    assert way_of(1_000_000, 1_000_000, None) == "scan"
    assert way_of(1_000_000, 5_000, 1_600) == "gather"
    assert way_of(1_000, 1_000, 1_600) == "scan"
    assert way_of(1_000_000, 900_000, None) == "scan"
    assert way_of(1_000_000, 1_000_000, 800, (2_048, 64)) == "ivf"
    assert way_of(1_000_000, 1_000_000, 800, (2_048, 256)) == "shortlist"
    assert way_of(50_000, 50_000, 400, (1_024, 64)) == "shortlist"
    assert probes_for({8: 0.97, 16: 0.992, 32: 1.0}, 10) == 32
    assert probes_for({8: 0.97, 16: 0.992, 32: 1.0}, 100) == 320
    assert probes_for({8: 0.97}, 10) is None
    assert probes_for({}, 10) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"where": "tissu = 'lung'"}, "no column tissu; there are cell_type, is_control, n_genes, name, row"),
        ({"k": 0}, "0 results"),
        ({"metric": "dot", "how": "shortlist"}, "inner products need an exact search"),
    ],
)
def test_refusals(index: VectorIndex, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Searcher(index).search(QUERIES[0], **arguments)
    with pytest.raises(InputError, match=r"shape \(3,\); the index holds 48-d"):
        Searcher(index).search(np.ones(3, np.float32))


class Stuck:
    """A shard that never answers."""

    def search(self, *arguments: Any) -> None:
        time.sleep(3_600)


def ask_for_ever(shard: Any) -> None:
    """A killed process may still answer for a moment."""
    import ray

    while True:
        ray.get(shard.search.remote(QUERIES[1], 1, {}))


def test_shards_on_ray(index: VectorIndex, ray_cluster: None) -> None:
    import ray

    from engine.retrieval.shards import ShardedSearcher

    path = str(index.snapshot.location)
    with pytest.raises(InputError, match="3 segments cannot be searched by 4 shards"):
        ShardedSearcher(path, 4)
    sharded = ShardedSearcher(path, 2)
    try:
        whole = Searcher(index).search(QUERIES[1], 15, where="tissue = 'skin'")
        found = sharded.search(QUERIES[1], 15, where="tissue = 'skin'")
        np.testing.assert_array_equal(found.cell, whole.cell)
        assert (found.shards, found.is_partial) == ((2, 2), False)
        with pytest.raises(InputError, match="no column"):
            sharded.search(QUERIES[1], 15, where="tissu = 'skin'")
        shards = sharded._shards
        stuck = ray.remote(num_cpus=0)(Stuck).remote()
        sharded._shards = [stuck, stuck]
        with pytest.raises(TimeoutError, match=r"none of 2 shards answered within 0\.1 s"):
            sharded.search(QUERIES[1], 15, timeout=0.1)
        sharded._shards = [stuck, shards[1]]
        found = sharded.search(QUERIES[1], 15, timeout=5)
        assert (found.shards, found.is_partial) == ((1, 2), True)
        ray.kill(stuck)
        sharded._shards = shards
        ray.kill(sharded._shards[1])
        with pytest.raises(ray.exceptions.RayActorError):
            ask_for_ever(sharded._shards[1])
        assert sharded.search(QUERIES[1], 15).shards == (1, 2)
    finally:
        sharded.close()
