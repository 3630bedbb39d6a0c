"""Sums over tokens against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.interpret.evaluation.inputs import GENE
from engine.interpret.evaluation.reconstruction import Reconstruction

TOKENS, WIDTH, GROUPS = 400, 5, 2


@pytest.fixture
def tokens() -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Activations far from the origin (their float32 squares have no digits left for the spread), their
    reconstructions, kinds and groups."""
    rng = np.random.default_rng(0)
    kind_T, group_T = rng.integers(0, 2, TOKENS), rng.integers(0, GROUPS, TOKENS)
    x_TD = torch.from_numpy(rng.standard_normal((TOKENS, WIDTH)) + 3000 + 5 * kind_T[:, None]).float()
    r_TD = x_TD + 0.3 * torch.from_numpy(rng.standard_normal((TOKENS, WIDTH))).float()
    return x_TD, r_TD, kind_T, group_T


def _sums(rows: np.ndarray, tokens: tuple) -> Reconstruction:  # type: ignore[type-arg]
    x_TD, r_TD, kind_T, group_T = tokens
    shift_D = x_TD[:7].double().mean(0).numpy()
    sums = Reconstruction.empty(shift_D, GROUPS, 1)
    stratum_T = (kind_T * GROUPS + group_T)[rows]
    sums.add_tokens(x_TD[rows], stratum_T)
    sums.add_errors(0, x_TD[rows], r_TD[rows], np.full(len(rows), 4), stratum_T)
    return sums


def test_variance_unexplained_is_around_the_mean_of_the_stratum(tokens: tuple) -> None:  # type: ignore[type-arg]
    x_TD, r_TD, kind_T, group_T = tokens
    sums = _sums(np.arange(TOKENS), tokens)
    for group in (None, 1):
        wanted = (kind_T == GENE) & ((group_T == group) if group is not None else True)
        x, r = x_TD[wanted].double(), r_TD[wanted].double()
        error = (x - r).square().sum()
        row = sums.row(0, sums.strata(GENE, group))
        assert row["n_tokens"] == wanted.sum()
        assert row["l0"] == 4
        assert row["fvu"] == pytest.approx(float(error / (x - x.mean(0)).square().sum()), rel=1e-9)
        common = x_TD[kind_T == GENE].double().mean(0)
        assert row["fvu_common"] == pytest.approx(float(error / (x - common).square().sum()), rel=1e-9)


def test_parts_add_up_to_the_whole(tokens: tuple) -> None:  # type: ignore[type-arg]
    whole, parts = _sums(np.arange(TOKENS), tokens), _sums(np.arange(150), tokens)
    parts.merge(_sums(np.arange(150, TOKENS), tokens))
    for name in ("tokens_S", "sum_SD", "square_S", "error_VS", "active_VS"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12, atol=1e-9)


def test_nothing_to_explain_is_no_number(tokens: tuple) -> None:  # type: ignore[type-arg]
    row = _sums(np.arange(0), tokens).row(0, np.array([0]))
    assert np.isnan(row["fvu"])
    assert np.isnan(row["l0"])
