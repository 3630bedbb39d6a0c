"""The feature pass against brute force, and its merge."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.interpret import features
from engine.interpret.features import (
    FeatureState,
    PassPlan,
    choose_resolution,
    empty_state,
    level_bits_for,
    merge,
)
from tests.interpret.small_pass import CELLS, FEATURES, GENES, SmallPass


def flat(state: FeatureState) -> dict[str, np.ndarray]:
    arrays = {}
    for part in ("pairs", "levels", "ranked"):
        run = getattr(state, part)
        arrays |= {f"{part}.{entry.name}": getattr(run, entry.name) for entry in fields(run)}
    return arrays | {name: getattr(state, name) for name in ("occurrences_G", "cells_F", "label_cells_L")}


def assert_equal(left: FeatureState, right: FeatureState, spans: bool = True) -> None:
    assert left.plan == right.plan
    assert left.n_cells == right.n_cells
    if spans:
        assert left.spans == right.spans
    for name, array in flat(left).items():
        np.testing.assert_array_equal(array, flat(right)[name], err_msg=name)
        assert array.dtype == flat(right)[name].dtype


@pytest.mark.parametrize("seed", [0, 1])
def test_counts_and_sums_equal_brute_force(seed: int) -> None:
    case = SmallPass.random(seed)
    state = case.whole()
    rows, a_TF = case.gene_tokens, case.activations
    assert state.n_tokens == rows.size
    assert state.n_cells == np.unique(case.cell_T[rows]).size
    for feature in range(FEATURES):
        active = rows[a_TF[rows, feature] > 0]
        assert state.cells_F[feature] == np.unique(case.cell_T[active]).size
        for gene in range(GENES):
            here = active[case.gene_T[active] == gene]
            found = np.flatnonzero(state.pairs.key_P == feature * GENES + gene)
            assert found.size == (here.size > 0)
            if here.size:
                assert state.pairs.fired_P[found[0]] == here.size
                assert state.pairs.total_P[found[0]] * case.plan.resolution == a_TF[here, feature].sum()
                assert state.pairs.peak_P[found[0]] == a_TF[here, feature].max()


def test_special_tokens_count_nowhere() -> None:
    case = SmallPass.random(3)
    state = case.whole()
    assert (state.occurrences_G[~case.is_gene_G] == 0).all()
    assert case.is_gene_G[state.pairs.key_P % GENES].all()
    silenced = replace(case, x_TD=case.x_TD.clone())
    silenced.x_TD[~torch.from_numpy(case.is_gene_G)[torch.from_numpy(case.gene_T.astype(np.int64))]] = 99.0
    assert_equal(state, silenced.whole())


def test_token_order_and_chunk_size_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    case = SmallPass.random(4)
    expected = case.whole()
    shuffled = np.random.default_rng(0).permutation(len(case.cell_T))
    assert_equal(expected, case.observe(shuffled))
    monkeypatch.setattr(features, "CHUNK_TOKENS", 11)
    monkeypatch.setattr(features, "COMPACT_AT", 20)
    monkeypatch.setattr(features, "DENSE_BYTES", 4 * FEATURES * 3)
    assert_equal(expected, case.observe(shuffled))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 5),
    edges=st.lists(st.integers(1, CELLS - 1), min_size=2, max_size=5, unique=True),
    order=st.randoms(use_true_random=False),
    top_cells=st.integers(0, 4),
)
def test_merge_is_associative_and_commutative(seed: int, edges: list[int], order, top_cells: int) -> None:
    case = SmallPass.random(seed, top_cells=top_cells)
    parts = case.by_cells([0, *sorted(edges), CELLS])
    together = merge(parts)
    assert_equal(together, case.whole(), spans=False)
    order.shuffle(parts)
    left = parts[0]
    for part in parts[1:]:
        left = merge([left, part])
    right = parts[-1]
    for part in reversed(parts[:-1]):
        right = merge([part, right])
    assert_equal(together, left)
    assert_equal(together, right)
    assert_equal(together, merge([empty_state(case.plan), together]))


def test_counting_a_cell_twice_is_refused() -> None:
    case = SmallPass.random(0)
    first, second = case.by_cells([0, 20, CELLS])
    with pytest.raises(ValueError, match="counted twice"):
        merge([first, second, first])
    with pytest.raises(ValueError, match="plans differ"):
        merge([first, replace(second, plan=PassPlan(1, 1))])
    with pytest.raises(ValueError, match="no state"):
        merge([])


def test_a_member_without_gene_tokens_is_neutral() -> None:
    case = SmallPass.random(0)
    nothing = case.observe([])
    assert nothing.n_cells == 0
    assert_equal(merge([nothing, case.whole()]), case.whole())


def test_nan_activations_are_refused() -> None:
    case = SmallPass.random(0)
    case.x_TD[case.gene_tokens[0]] = float("inf")
    with pytest.raises(ValueError, match="NaN or infinity"):
        case.whole()


def test_whole_cells_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK_TOKENS", 4)
    cells = np.array([1, 1, 2, 2, 2, 2, 2, 2, 5, 5, 7, 9], dtype=np.int64)
    assert list(features.whole_cell_chunks(cells)) == [(0, 2), (2, 8), (8, 12)]


def test_resolution_follows_the_scale_of_the_activations() -> None:
    case = SmallPass.random(0)
    resolution = choose_resolution(case.sae, case.x_TD)
    peak = float(case.activations.max())
    assert peak / 2**25 < resolution <= peak / 2**22
    assert np.log2(resolution).is_integer()
    assert choose_resolution(case.sae, case.x_TD * 0) == PassPlan.resolution


def test_levels_are_exact_until_they_would_not_fit() -> None:
    assert level_bits_for(700, 1024) == 23
    assert level_bits_for(1_000_000, 16_384) == 4
