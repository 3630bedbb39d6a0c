"""The arithmetic of a search against plain numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.retrieval import scan


def unit_rows(n: int, width: int = 512, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_scores() -> None:
    # More rows than a block has, and the query's own neighbours among them: the largest scores.
    vectors, query = unit_rows(9_000).astype(np.float16), unit_rows(1, seed=1)[0]
    vectors[:100] = (query + 0.02 * unit_rows(100, seed=2)).astype(np.float16)
    scores = scan.scores(vectors, query)
    np.testing.assert_allclose(scores, vectors.astype(np.float64) @ query, atol=1e-6, rtol=0)
    for positions in (np.array([8_999, 5, 17, 5]), np.arange(40, 90), np.empty(0, np.int64)):
        np.testing.assert_array_equal(scan.scores_at(vectors, query, positions), scores[positions])


def test_every_float16_is_widened_exactly() -> None:
    """Zeros of both signs, subnormal numbers and infinity included; NaN stays NaN."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)[:, None]
    scores = scan.scores(every, np.ones(1, np.float32))
    np.testing.assert_array_equal(scores, every[:, 0].astype(np.float32))


@pytest.mark.parametrize("width", [1, 3, 64, 500, 1_021])
def test_widths_that_no_vector_of_the_cpu_divides(width: int) -> None:
    vectors, query = unit_rows(77, width).astype(np.float16), unit_rows(1, width, seed=1)[0]
    np.testing.assert_allclose(scan.scores(vectors, query), vectors.astype(np.float64) @ query, atol=1e-6)


@pytest.mark.parametrize("position", [-1, 3, 2**40])
def test_rows_that_are_not_there_are_not_read(position: int) -> None:
    vectors, query = unit_rows(3).astype(np.float16), unit_rows(1)[0]
    with pytest.raises(IndexError):
        scan.scores_at(vectors, query, np.array([0, position]))
    with pytest.raises(IndexError):
        scan.scores_at(vectors, query[:-1], np.array([0]))


def test_short_scores_are_integer_products() -> None:
    generator = np.random.default_rng(0)
    short = generator.integers(-127, 128, size=(777, 64), dtype=np.int8)
    query = generator.integers(-127, 128, size=64, dtype=np.int8)
    np.testing.assert_array_equal(
        scan.short_scores(short, query), short.astype(np.int32) @ query.astype(np.int32)
    )


def test_further_threads_change_nothing_but_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_BYTES_A_THREAD", 1)
    vectors, query = unit_rows(50_000, 64).astype(np.float16), unit_rows(1, 64, seed=1)[0]
    short, code = np.int8(vectors * 127), np.int8(query * 127)
    used: list[int] = []
    monkeypatch.setattr(
        torch, "set_num_threads", lambda n, set_to=torch.set_num_threads: (used.append(n), set_to(n))
    )
    pools: list[int] = []
    monkeypatch.setattr(
        scan, "ThreadPoolExecutor", lambda n, pool=scan.ThreadPoolExecutor: (pools.append(n), pool(n))[1]
    )
    before = torch.get_num_threads()
    # Seven blocks of rows: shared evenly, unevenly, and by more threads than there are blocks.
    for n in (before + 1, before + 2, 20):
        np.testing.assert_array_equal(scan.scores(vectors, query, n), scan.scores(vectors, query, 1))
        np.testing.assert_array_equal(scan.short_scores(short, code, n), scan.short_scores(short, code))
    assert used == [before + 1, before, before + 2, before, 20, before]
    assert pools == [before + 1, before + 2, 20]
    assert torch.get_num_threads() == before
    # A scan of little is done by one: waking another takes longer.
    monkeypatch.setattr(scan, "_BYTES_A_THREAD", 1 << 40)
    torch.set_num_threads(2)
    used.clear()
    for most in (8, None):
        scan.short_scores(short, code, most)
        scan.scores(vectors, query, most)
    assert used == [1, 2, 1, 2]
    assert len(pools) == 3
    torch.set_num_threads(before)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 5_000),
    k=st.integers(1, 400),
    levels=st.sampled_from([2, 50, 1_000_000]),
    is_sorted=st.booleans(),
)
def test_best_are_the_best_with_all_ties(n: int, k: int, levels: int, is_sorted: bool) -> None:
    scores = np.random.default_rng(n).integers(levels, size=n).astype(np.int32)
    if is_sorted:
        scores.sort()
    smallest = np.sort(scores)[-min(k, n)]
    np.testing.assert_array_equal(scan.best(scores, k), np.flatnonzero(scores >= smallest))


@pytest.mark.parametrize("period", [61, 122])
def test_best_when_the_sample_misleads(period: int) -> None:
    """All large scores lie where the sample looks: the guessed threshold is far too high."""
    scores = np.zeros(6_100, np.float32)
    scores[::period] = np.arange(len(scores[::period])) + 1
    assert len(scan.best(scores, 40)) == 40
    np.testing.assert_array_equal(
        scan.best(-scores, 6_000), np.flatnonzero(-scores >= np.sort(-scores)[-6_000])
    )
