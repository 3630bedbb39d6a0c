"""Features found in other autoencoders, and by chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.interpret.evaluation.stability import stability_of


def test_shares_stand_beside_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(40, 64, generator=generator)
    # The other has the first ten features in another order and scale, and thirty of its own.
    other = torch.cat([torch.randn(30, 64, generator=generator), 3 * own[:10].flip(0)])
    alive_F = np.arange(40) < 20
    table, facts = stability_of(own, [other], alive_F, seed=1)
    assert facts["all_features"]["best_share"] == pytest.approx(0.25)
    assert facts["alive_features"]["best_share"] == pytest.approx(0.5)
    assert facts["features_of_the_others_found_here"] == [pytest.approx(0.25)]
    assert facts["random_directions"]["best_share"] == 0
    assert table.query("found_share == 1")["feature"].tolist() == list(range(10))
    assert table["alive"].sum() == 20
