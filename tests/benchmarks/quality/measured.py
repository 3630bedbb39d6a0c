"""How good an autoencoder is, from its exported directory and tokens it was not trained on.

Legend: B tokens of a batch, C cells, D width, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.models import sae


@dataclass(frozen=True)
class Quality:
    """Of an exported directory on held-out tokens. dead: share of features that never fire there.

    l0_error: standard error of l0, with the cells as a sample (ratio estimator).
    """

    fvu: float
    l0: float
    l0_error: float
    dead: float

    def l0_off(self, k: int) -> float:
        """How far L0 is from k, beyond what the choice of held-out cells explains; in features."""
        return max(abs(self.l0 - k) - self.l0_error, 0.0)


def quality(directory: Path, held_out: Sequence[torch.Tensor]) -> Quality:
    """Both sides are read by our loader, which the goldens prove equal to SAELens' (tests/parity).

    held_out: x_BD of one cell each.
    """
    model = sae.load(directory)
    fired_F = torch.zeros(model.d_sae, dtype=torch.bool)
    mean_D = torch.cat([x_BD.double() for x_BD in held_out]).mean(0)
    left, variance = 0.0, 0.0
    active_C, tokens_C = torch.zeros(2, len(held_out), dtype=torch.float64)
    with torch.no_grad():
        for cell, x_BD in enumerate(held_out):
            codes = model.encode_sparse(x_BD)
            left += float((x_BD.double() - model.decode_sparse(codes, x_BD).double()).square().sum())
            variance += float((x_BD.double() - mean_D).square().sum())
            fired_F[codes.index_BK[codes.value_BK > 0]] = True
            active_C[cell], tokens_C[cell] = int((codes.value_BK > 0).sum()), len(x_BD)
    n_tokens = float(tokens_C.sum())
    l0 = float(active_C.sum()) / n_tokens
    l0_error = float((active_C - l0 * tokens_C).square().sum().sqrt()) / n_tokens
    return Quality(left / variance, l0, l0_error, 1 - float(fired_F.float().mean()))
