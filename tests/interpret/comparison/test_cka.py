"""CKA against its formulas on whole matrices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from engine.interpret.comparison.cka import linear_cka


def plain(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(0), other - other.mean(0)
    return float(
        np.linalg.norm(one.T @ other) ** 2 / np.linalg.norm(one.T @ one) / np.linalg.norm(other.T @ other)
    )


def unbiased_hsic(one: np.ndarray, other: np.ndarray) -> float:
    """Song et al. 2012, equation 5, as written there."""
    n = len(one)
    K, L = one @ one.T, other @ other.T
    np.fill_diagonal(K, 0)
    np.fill_diagonal(L, 0)
    ones = np.ones(n)
    last = 2 / (n - 2) * ones @ K @ L @ ones
    middle = (ones @ K @ ones) * (ones @ L @ ones) / (n - 1) / (n - 2)
    return float((np.trace(K @ L) + middle - last) / n / (n - 3))


@pytest.mark.parametrize("block", [7, 1024])
def test_both_estimates_whatever_the_block(block: int) -> None:
    rng = np.random.default_rng(0)
    one = rng.random((40, 60)) * (rng.random((40, 60)) < 0.3)
    other = one[:, :20] @ rng.random((20, 9)) + rng.standard_normal((40, 9))
    found = linear_cka(sparse.csr_matrix(one.astype(np.float32)), other.astype(np.float32), block=block)
    assert found is not None
    assert found.plain == pytest.approx(plain(one, other), abs=1e-5)
    expected = unbiased_hsic(one, other) / np.sqrt(unbiased_hsic(one, one) * unbiased_hsic(other, other))
    assert found.unbiased == pytest.approx(expected, abs=1e-5)


def test_the_plain_estimate_takes_noise_for_likeness_and_the_unbiased_does_not() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 50, 400)).astype(np.float32)
    found = linear_cka(one, other)
    assert found is not None
    assert found.plain > 0.8
    assert abs(found.unbiased) < 0.05


def test_the_same_up_to_a_rotation_is_1() -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal((30, 6)).astype(np.float32)
    rotation, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    found = linear_cka(one, (3 * one @ rotation + 100).astype(np.float32))
    assert found is not None
    assert found.plain == pytest.approx(1, abs=1e-4)
    assert found.unbiased == pytest.approx(1, abs=1e-4)


def test_three_cells_are_too_few() -> None:
    assert linear_cka(np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)) is None
