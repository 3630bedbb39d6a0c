"""Neighbours and maps of embeddings whose structure is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from engine.interpret.projection import (
    expression_components,
    majority_share,
    neighbour_accuracy,
    umap_projection,
)


def two_groups(n: int = 60) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    e_CD = rng.standard_normal((n, 8)).astype(np.float32)
    e_CD[::2, 0] += 12
    e_CD[1::2, 1] += 12
    return e_CD, ["even", "odd"] * (n // 2)


def test_neighbours_agree_where_groups_are_apart() -> None:
    e_CD, labels = two_groups()
    assert neighbour_accuracy(e_CD, labels) == 1.0
    rng = np.random.default_rng(0)
    assert neighbour_accuracy(e_CD, list(rng.permutation(labels))) < 0.75
    assert majority_share(["a", "a", "b", "a"]) == 0.75


def test_components_separate_what_counts_separate() -> None:
    rng = np.random.default_rng(0)
    rate = np.full((60, 30), 20.0)
    rate[::2, :10] = 100
    counts = sparse.csr_matrix(rng.poisson(rate))
    components = expression_components(counts)
    assert components.shape == (60, 29)
    assert neighbour_accuracy(components, ["a", "b"] * 30) > 0.9


@pytest.mark.slow
def test_the_map_can_be_repeated() -> None:
    e_CD, _ = two_groups()
    place_C2 = umap_projection(e_CD, seed=3)
    assert place_C2.shape == (60, 2)
    np.testing.assert_array_equal(place_C2, umap_projection(e_CD, seed=3))
    even, odd = place_C2[::2], place_C2[1::2]
    spread = max(even.std(), odd.std())
    assert np.linalg.norm(even.mean(0) - odd.mean(0)) > spread
