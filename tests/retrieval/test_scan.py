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
    vectors, query = unit_rows(3_000).astype(np.float16), unit_rows(1, seed=1)[0]
    # The query's own neighbours, where scores, and so their rounding, are largest.
    vectors[:100] = (query + 0.02 * unit_rows(100, seed=2)).astype(np.float16)
    expected = vectors.astype(np.float64) @ query
    assert np.abs(scan.fast_scores(vectors, query) - expected).max() < scan.SCORE_ERROR / 2
    for positions in (np.array([5, 17, 2_999]), np.arange(40, 90), np.empty(0, np.int64)):
        np.testing.assert_allclose(scan.scores_at(vectors, query, positions), expected[positions], atol=1e-6)


def test_short_scores_are_integer_products() -> None:
    generator = np.random.default_rng(0)
    short = generator.integers(-127, 128, size=(777, 64), dtype=np.int8)
    query = generator.integers(-127, 128, size=64, dtype=np.int8)
    np.testing.assert_array_equal(
        scan.short_scores(short, query), short.astype(np.int32) @ query.astype(np.int32)
    )


def test_further_threads_change_nothing_but_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_BYTES_A_THREAD", 1)
    vectors, query = unit_rows(5_000).astype(np.float16), unit_rows(1, seed=1)[0]
    short, code = np.int8(vectors[:, :64] * 1_000), np.int8(query[:64] * 1_000)
    used: list[int] = []
    monkeypatch.setattr(
        torch, "set_num_threads", lambda n, set_to=torch.set_num_threads: (used.append(n), set_to(n))
    )
    before = torch.get_num_threads()
    for n in (before + 1, before + 2):
        np.testing.assert_array_equal(scan.fast_scores(vectors, query, n), scan.fast_scores(vectors, query))
        np.testing.assert_array_equal(scan.short_scores(short, code, n), scan.short_scores(short, code))
    assert used == [before + 1, before, before + 1, before, before + 2, before, before + 2, before]
    assert torch.get_num_threads() == before
    # A scan of little is done by one: waking another takes longer.
    monkeypatch.setattr(scan, "_BYTES_A_THREAD", 1 << 40)
    torch.set_num_threads(2)
    used.clear()
    scan.fast_scores(vectors, query, 8)
    assert used == [1, 2]
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
