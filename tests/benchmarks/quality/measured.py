"""How good an autoencoder is, from its exported directory and tokens it was not trained on.

Legend: B tokens of a batch, D width, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.models import sae


@dataclass(frozen=True)
class Quality:
    """Of an exported directory on held-out tokens. dead: share of features that never fire there."""

    fvu: float
    l0: float
    dead: float


def quality(directory: Path, held_out: Sequence[torch.Tensor]) -> Quality:
    """Both sides are read by our loader, which the goldens prove equal to SAELens' (tests/parity)."""
    model = sae.load(directory)
    fired_F = torch.zeros(model.d_sae, dtype=torch.bool)
    mean_D = torch.cat([x_BD.double() for x_BD in held_out]).mean(0)
    left, variance, active, n_tokens = 0.0, 0.0, 0, 0
    with torch.no_grad():
        for x_BD in held_out:
            codes = model.encode_sparse(x_BD)
            left += float((x_BD.double() - model.decode_sparse(codes, x_BD).double()).square().sum())
            variance += float((x_BD.double() - mean_D).square().sum())
            fired_F[codes.index_BK[codes.value_BK > 0]] = True
            active, n_tokens = active + int((codes.value_BK > 0).sum()), n_tokens + len(x_BD)
    return Quality(left / variance, active / n_tokens, 1 - float(fired_F.float().mean()))
