import numpy as np
import pytest
from scipy import sparse, stats

from engine.perturbation.rank_sum import RankSum, win_share
from storage.errors import InputError


def test_p_values_are_scipys_with_ties_zeros_and_constant_genes() -> None:
    rng = np.random.default_rng(0)
    control = rng.poisson(0.7, (41, 12)).astype(np.float32)
    group = rng.poisson(1.3, (17, 12)).astype(np.float32)
    control[:, 3] = group[:, 3] = 0
    control[:, 4] = group[:, 4] = 2
    control[:, 5] = 0
    u, p = RankSum(sparse.csr_matrix(control)).test(sparse.csr_matrix(group))
    expected = stats.mannwhitneyu(group.astype(float), control.astype(float), axis=0, method="asymptotic")
    np.testing.assert_allclose(u, expected.statistic)
    np.testing.assert_allclose(p, np.nan_to_num(expected.pvalue, nan=1.0), rtol=1e-10)
    shares = win_share(sparse.csr_matrix(group), sparse.csr_matrix(control))
    np.testing.assert_allclose(shares, expected.statistic / (17 * 41))
    assert win_share(sparse.csr_matrix(group), sparse.csr_matrix((0, 12))).tolist() == [0.5] * 12


def test_no_controls_and_negative_values_are_refused() -> None:
    with pytest.raises(InputError, match="control cells"):
        RankSum(sparse.csr_matrix((0, 3)))
    with pytest.raises(InputError, match="negative"):
        RankSum(sparse.csr_matrix(np.array([[1.0, -1.0]])))
