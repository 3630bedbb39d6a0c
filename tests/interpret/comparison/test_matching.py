"""Matching features: both ways, one to one, and never all pairs at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from engine.interpret.comparison import NOBODY, DecoderCosine, Matching, match
from engine.interpret.comparison.matching import partners

ONE, OTHER, WIDTH = 37, 50, 12


def directions(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def similarity() -> DecoderCosine:
    return DecoderCosine(directions(ONE, 0), directions(OTHER, 1))


@pytest.fixture(scope="module")
def whole(similarity: DecoderCosine) -> np.ndarray:
    return similarity.block(slice(0, ONE), slice(0, OTHER)).numpy()


@pytest.mark.parametrize("block", [1, 8, 2048])
def test_best_partners_both_ways_whatever_the_block(
    similarity: DecoderCosine, whole: np.ndarray, block: int
) -> None:
    found = match(similarity, block=block)
    assert np.array_equal(found.best_F, whole.argmax(axis=1))
    assert np.array_equal(found.best_G, whole.argmax(axis=0))
    assert np.allclose(found.best_similarity_F, whole.max(axis=1), atol=1e-6)
    assert np.allclose(found.best_similarity_G, whole.max(axis=0), atol=1e-6)
    mutual = [whole[:, column].argmax() == row for row, column in enumerate(whole.argmax(axis=1))]
    assert np.array_equal(found.mutual, mutual)
    assert 0 < sum(mutual) < ONE


def test_candidates_are_the_most_alike_in_order(similarity: DecoderCosine, whole: np.ndarray) -> None:
    of_one, of_other = partners(similarity, candidates=5, block=7)
    assert np.array_equal(of_one.index_FC, np.argsort(-whole, axis=1)[:, :5])
    assert np.array_equal(of_other.index_FC, np.argsort(-whole.T, axis=1)[:, :5])


def test_the_assignment_is_the_best_one_when_all_pairs_are_candidates(
    similarity: DecoderCosine, whole: np.ndarray
) -> None:
    found = match(similarity, candidates=OTHER, block=16)
    rows, columns = linear_sum_assignment(np.maximum(whole, 0), maximize=True)
    assert found.assigned_similarity_F.sum() == pytest.approx(whole[rows, columns].sum(), abs=1e-4)
    taken = found.assigned_F[found.assigned_F != NOBODY]
    assert len(set(taken.tolist())) == len(taken)
    # A few candidates already give nearly all of it, and never more.
    few = match(similarity, candidates=8, block=16).assigned_similarity_F.sum()
    assert 0.95 * whole[rows, columns].sum() < few <= whole[rows, columns].sum() + 1e-4


def test_a_permutation_is_found_again() -> None:
    one = directions(40, 3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    found = match(DecoderCosine(one, 2 * one[order]), block=16)
    inverse = order.argsort().numpy()
    assert np.array_equal(found.best_F, inverse)
    assert np.array_equal(found.assigned_F, inverse)
    assert found.mutual.all()
    assert np.allclose(found.assigned_similarity_F, 1, atol=1e-5)


def test_what_is_like_nothing_stays_alone() -> None:
    one = torch.eye(4, WIDTH)
    other = torch.stack([one[0], -one[1], torch.zeros(WIDTH)])
    found = match(DecoderCosine(one, other))
    assert found.best_F.tolist() == [0, NOBODY, NOBODY, NOBODY]
    assert found.assigned_F.tolist() == [0, NOBODY, NOBODY, NOBODY]
    assert found.mutual.tolist() == [True, False, False, False]
    assert found.best_G.tolist() == [0, NOBODY, NOBODY]


def test_the_other_way_round(similarity: DecoderCosine) -> None:
    found = match(similarity)
    turned = found.reversed()
    assert np.array_equal(turned.best_F, found.best_G)
    back = turned.reversed()
    for name in Matching.__dataclass_fields__:
        assert np.array_equal(getattr(back, name), getattr(found, name)), name


class Counted:
    """A similarity that notes how many pairs it was asked for at once, and in all."""

    def __init__(self, inner: DecoderCosine) -> None:
        self.inner, self.most, self.total = inner, 0, 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    def block(self, rows: slice, columns: slice) -> torch.Tensor:
        s_fg = self.inner.block(rows, columns)
        self.most, self.total = max(self.most, s_fg.numel()), self.total + s_fg.numel()
        return s_fg


def test_no_more_than_a_block_of_pairs_exists_at_once(similarity: DecoderCosine) -> None:
    counted = Counted(similarity)
    match(counted, candidates=4, block=8)
    assert counted.most == 64
    assert counted.total == ONE * OTHER
