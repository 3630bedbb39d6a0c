"""Corners of looking at tokens that random cases do not reach."""

from __future__ import annotations

import torch

from tests.interpret.small_pass import LABELS, SmallPass


def test_cells_in_which_nothing_fires_still_count() -> None:
    case = SmallPass.random(0)
    case.x_TD = torch.zeros_like(case.x_TD)
    state = case.whole()
    assert state.features.pairs.key_P.size == 0
    assert state.tokens.n_cells > 0
    assert len(state.tokens.label_cells_L) == len(LABELS)
    assert (state.tokens.label_cells_L > 0).all()
