"""Which features of an autoencoder others have too, and how many would by chance.

Shape legend: F features, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from engine.interpret.comparison import SAME_ABOVE, stability_over_seeds


def stability_of(
    decoder_FD: torch.Tensor, others: Sequence[torch.Tensor], alive_F: np.ndarray, seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A row a feature, and the shares of features found again: of all, of those that fire, of the others' in
    this one, and of as many random directions, for with many features a space is full of neighbours."""
    stable = stability_over_seeds(decoder_FD, others)
    generator = torch.Generator().manual_seed(seed)
    chance = stability_over_seeds(torch.randn(decoder_FD.shape, generator=generator), others)
    backward = [stability_over_seeds(other, [decoder_FD]).shares()["best_share"] for other in others]
    table = pd.DataFrame(
        {
            "feature": np.arange(len(decoder_FD)),
            "alive": alive_F,
            "found_share": stable.score,
            "similarity": stable.similarity,
        }
    )
    return table, {
        "same_above": SAME_ABOVE,
        "all_features": stable.shares(),
        "alive_features": stable.shares(alive_F),
        "random_directions": chance.shares(),
        "features_of_the_others_found_here": backward,
    }
