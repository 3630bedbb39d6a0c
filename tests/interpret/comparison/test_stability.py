"""Stability of features over seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.interpret.comparison import Stability, stability_over_seeds


def test_features_that_come_back_score_high() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(30, 64, generator=generator)
    same, half = one.flip(0), torch.randn(30, 64, generator=generator)
    half[:15] = one[:15] + 0.1 * torch.randn(15, 64, generator=generator)
    found = stability_over_seeds(one, [same, half], block=7)
    assert found.score[:15].tolist() == [1.0] * 15
    assert found.score[15:].tolist() == [0.5] * 15
    assert found.similarity[:15].min() > 0.95
    assert found.shares() == pytest.approx(
        {"best_share": 0.75, "assigned_share": 0.75, "found_in_all_share": 0.5}
    )
    counted = np.arange(30) < 15
    assert found.shares(counted)["found_in_all_share"] == 1
    assert found.shares(np.zeros(30, bool))["best_share"] == 0


def test_two_features_that_find_the_same_one_are_assigned_once() -> None:
    one = torch.tensor([[1.0, 0.05], [1.0, -0.05]])
    found = stability_over_seeds(one, [torch.tensor([[1.0, 0.0]])])
    assert found.score.tolist() == [1, 1]
    assert found.shares()["assigned_share"] == 0.5


def test_alone_there_is_no_stability() -> None:
    with pytest.raises(ValueError, match="at least one other"):
        Stability.of([])
