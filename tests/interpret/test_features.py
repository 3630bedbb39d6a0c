"""The feature pass against brute force, and its merge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.interpret import codes, features
from engine.interpret.features import whole_cell_chunks
from engine.interpret.levels import BINS, bin_edges
from engine.interpret.state import (
    EXPRESSION_UNIT,
    FeatureState,
    FeatureTotals,
    PassPlan,
    TokenTotals,
    empty_state,
    exact_levels_for,
    merge,
    resolution_for,
)
from tests.interpret.small_pass import CELLS, FEATURES, GENES, SmallPass


def flat(state: FeatureState) -> dict[str, np.ndarray]:
    return state.tokens.arrays() | state.features.arrays()


def assert_equal(left: FeatureState, right: FeatureState, spans: bool = True) -> None:
    assert left.plan == right.plan
    for name, array in flat(left).items():
        if spans or name != "spans_C2":
            np.testing.assert_array_equal(array, flat(right)[name], err_msg=name)
            assert array.dtype == flat(right)[name].dtype, name


@pytest.mark.parametrize("seed", [0, 1])
def test_counts_and_sums_equal_brute_force(seed: int) -> None:
    case = SmallPass.random(seed)
    state = case.whole()
    pairs, resolution = state.features.pairs, case.plan.resolution
    rows, a_TF = case.gene_tokens, case.activations
    assert state.tokens.n_tokens == rows.size
    assert state.tokens.n_cells == np.unique(case.cell_T[rows]).size
    assert state.tokens.n_without_count == (case.expression_T[rows] == 0).sum()
    for feature in range(FEATURES):
        active = rows[a_TF[rows, feature] > 0]
        assert state.features.cells_F[feature] == np.unique(case.cell_T[active]).size
        squares = state.features.squares_F[feature] * case.plan.square_resolution
        assert squares == pytest.approx((a_TF[active, feature].astype(np.float64) ** 2).sum(), abs=1e-3)
        for gene in range(GENES):
            here = active[case.gene_T[active] == gene]
            found = np.flatnonzero(pairs.key_P == feature * GENES + gene)
            assert found.size == (here.size > 0)
            if here.size:
                value = a_TF[here, feature]
                assert pairs.fired_P[found[0]] == here.size
                assert pairs.total_P[found[0]] * resolution == value.sum()
                assert pairs.weighted_P[found[0]] * resolution == (value * case.expression_T[here]).sum()
                assert pairs.peak_P[found[0]] == value.max()
    for gene in range(GENES):
        expression = case.expression_T[rows[case.gene_T[rows] == gene]].sum()
        assert state.tokens.expression_G[gene] * EXPRESSION_UNIT == expression


def test_histogram_equals_numpy() -> None:
    case = SmallPass.random(0)
    state, a_TF = case.whole(), case.activations[case.gene_tokens]
    edges = bin_edges(case.plan.resolution)
    for feature in range(FEATURES):
        run = state.features.bins
        mine = run.key_K // BINS == feature
        found = np.zeros(BINS, np.int64)
        found[run.key_K[mine] % BINS] = run.count_K[mine]
        value = np.clip(a_TF[a_TF[:, feature] > 0, feature], edges[0], np.nextafter(edges[-1], 0))
        np.testing.assert_array_equal(found, np.histogram(value, edges)[0])


def test_special_tokens_count_nowhere() -> None:
    case = SmallPass.random(3)
    state = case.whole()
    assert (state.tokens.tokens_G[~case.is_gene_G] == 0).all()
    assert case.is_gene_G[state.features.pairs.key_P % GENES].all()
    silenced = replace(case, x_TD=case.x_TD.clone())
    silenced.x_TD[~torch.from_numpy(case.is_gene_G)[torch.from_numpy(case.gene_T.astype(np.int64))]] = 99.0
    assert_equal(state, silenced.whole())


def test_token_order_and_chunk_size_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    case = SmallPass.random(4, sample_share=0.5)
    expected = case.whole()
    shuffled = np.random.default_rng(0).permutation(len(case.cell_T))
    assert_equal(expected, case.observe(shuffled))
    monkeypatch.setattr(features, "CHUNK_TOKENS", 11)
    monkeypatch.setattr(features, "COMPACT_AT", 20)
    monkeypatch.setattr(features, "MOST_ACTIVATIONS", 30)
    monkeypatch.setattr(codes, "TOKENS_AT_ONCE", 3)
    assert_equal(expected, case.observe(shuffled))
    monkeypatch.setattr(features, "CHUNK_TOKENS", 10_000)
    assert_equal(expected, case.observe(shuffled))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 5),
    edges=st.lists(st.integers(1, CELLS - 1), min_size=2, max_size=5, unique=True),
    order=st.randoms(use_true_random=False),
    top_cells=st.integers(0, 4),
    exact=st.booleans(),
)
def test_merge_is_associative_and_commutative(
    seed: int, edges: list[int], order, top_cells: int, exact: bool
) -> None:
    case = SmallPass.random(seed, top_cells=top_cells, sample_share=0.4, exact_levels=exact)
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


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 5),
    edges=st.lists(st.integers(1, FEATURES - 1), max_size=4, unique=True),
)
def test_ranges_of_features_merge_by_themselves(seed: int, edges: list[int]) -> None:
    case = SmallPass.random(seed)
    parts, cuts = case.by_cells([0, 13, CELLS]), [0, *sorted(edges), FEATURES]
    ranges = [list(part.features.cut(case.plan, cuts)) for part in parts]
    merged = [FeatureTotals.merge(case.plan, column) for column in zip(*ranges, strict=True)]
    whole = merge(parts).features
    for part, expected in zip(merged, whole.cut(case.plan, cuts), strict=True):
        again = FeatureTotals.of_arrays(part.arrays())
        for name, array in expected.arrays().items():
            np.testing.assert_array_equal(again.arrays()[name], array, err_msg=name)
    for name, array in whole.arrays().items():
        if name != "extent":
            parted = np.concatenate([part.arrays()[name] for part in merged])
            np.testing.assert_array_equal(parted, array, err_msg=name)


def test_the_sample_is_whole_tokens_of_about_the_share_asked() -> None:
    case = SmallPass.random(0, sample_share=0.3)
    tokens = case.whole().tokens
    assert 0.2 < tokens.n_sampled / tokens.n_tokens < 0.4
    cell, position = tokens.sample.token_S >> 24, tokens.sample.token_S & 0xFFFFFF
    np.testing.assert_array_equal(case.cell_T[position], cell)
    np.testing.assert_array_equal(case.activations[position, tokens.sample.feature_S], tokens.sample.value_S)
    assert tokens.sample.token_S.size == (case.activations[np.unique(position)] > 0).sum()
    assert TokenTotals.of_arrays(tokens.arrays()).n_sampled == tokens.n_sampled
    everything = SmallPass.random(0, sample_share=1.0).whole().tokens
    assert everything.n_sampled == everything.n_tokens


def test_counting_a_cell_twice_is_refused() -> None:
    case = SmallPass.random(0)
    first, second = case.by_cells([0, 20, CELLS])
    with pytest.raises(ValueError, match="counted twice"):
        merge([first, second, first])
    with pytest.raises(ValueError, match="plans differ"):
        merge([first, replace(second, plan=PassPlan(1, 1))])
    with pytest.raises(ValueError, match="no state"):
        merge([])
    with pytest.raises(ValueError, match="one and the same range"):
        FeatureTotals.merge(case.plan, [FeatureTotals.empty(0, 3), FeatureTotals.empty(0, 4)])


def test_a_member_without_gene_tokens_is_neutral() -> None:
    case = SmallPass.random(0)
    nothing = case.observe([])
    assert nothing.tokens.n_cells == 0
    assert_equal(merge([nothing, case.whole()]), case.whole())


def test_nan_activations_are_refused() -> None:
    case = SmallPass.random(0)
    case.x_TD[case.gene_tokens[0]] = float("inf")
    with pytest.raises(ValueError, match="NaN or infinity"):
        case.whole()


def test_whole_cells_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK_TOKENS", 4)
    cells = np.array([1, 1, 2, 2, 2, 2, 2, 2, 5, 5, 7, 9], dtype=np.int64)
    assert list(whole_cell_chunks(cells)) == [(0, 2), (2, 8), (8, 12)]


def test_resolution_follows_the_scale_of_the_activations() -> None:
    for peak in (0.013, 1.0, 700.0):
        resolution = resolution_for(peak)
        assert peak / 2**29 < resolution <= peak / 2**26
        assert np.log2(resolution).is_integer()
        edges = bin_edges(resolution)
        assert edges[0] < peak * 2**-12
        assert peak < edges[-1]
    assert resolution_for(0.0) == PassPlan.resolution


def test_levels_are_exact_until_they_would_not_fit() -> None:
    assert exact_levels_for(700, 1024)
    assert not exact_levels_for(1_000_000, 16_384)
