"""Class-level recall: by hand, with ties, with labels nobody has."""

import numpy as np
import pytest

from engine.retrieval.recalls import class_ranks, class_recall

SCORES = np.array([[0.9, 0.8, 0.1], [0.9, 0.2, 0.1], [0.3, 0.2, 0.1]])


def test_shares_over_queries_and_over_labels() -> None:
    found = class_recall(SCORES, ["a", "a", "c"], ["a", "b", "c"], (1, 2, 3))
    assert found["recall@1"] == pytest.approx(2 / 3)
    assert found["macro_recall@1"] == 0.5
    assert found["recall@2"] == pytest.approx(2 / 3)
    assert found["recall@3"] == 1.0
    assert (found["median_rank"], found["queries"], found["candidates"]) == (1.0, 3, 3)


def test_ties_are_never_in_favour_of_the_query() -> None:
    level = np.ones((1, 4))
    assert class_ranks(level, ["a"], ["a", "b", "b", "c"]).tolist() == [4.0]
    assert class_ranks(level, ["a"], ["a", "b", "b", "c"], ties="mean").tolist() == [2.5]
    assert class_ranks(level, ["a"], ["a", "a", "b", "b"], ties="mean").tolist() == [1 + 2 / 3]


def test_expected_rank_is_that_of_random_orders() -> None:
    generator = np.random.default_rng(0)
    labels = np.array(["a", "a", "b", "b", "b", "b"])
    firsts = [1 + np.flatnonzero(generator.permutation(labels) == "a")[0] for _ in range(4000)]
    expected = class_ranks(np.zeros((1, 6)), ["a"], labels, ties="mean")[0]
    assert expected == pytest.approx(np.mean(firsts), abs=0.05)


def test_nan_scores_come_last() -> None:
    assert class_ranks(np.array([[np.nan, 0.1]]), ["a"], ["a", "b"]).tolist() == [2.0]


def test_queries_without_a_candidate_are_counted_and_left_out() -> None:
    found = class_recall(SCORES, ["a", "x", "x"], ["a", "b", "c"], (1,))
    assert (found["recall@1"], found["unanswerable"]) == (1.0, 2)
    with pytest.raises(ValueError, match="no candidate"):
        class_recall(SCORES, ["x", "x", "x"], ["a", "b", "c"])


def test_labels_must_fit_scores() -> None:
    with pytest.raises(ValueError, match=r"expected \(2 queries, 3 candidates\)"):
        class_recall(SCORES, ["a", "b"], ["a", "b", "c"])
