"""How much of the activations a reconstruction explains, by kind of token and group of cells.

FVU = sum ||x - r||^2 / sum ||x - mean||^2 over the tokens of a stratum, around that stratum's own mean (or,
around the mean of the genes of all groups, as `fvu_common`). Sums are float64 and those of members are added
in their order, so the same members give the same bits. A mean over tokens of each token's own ratio is
another, larger-sounding number; it is never computed.

Shape legend: T tokens, D width, S strata (kind of token x group of cells), V dictionaries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from engine.interpret.evaluation.inputs import CLASSES, GENE
from engine.interpret.runs import Float64, Int64


@dataclass
class Reconstruction:
    """Sums over tokens. sum_SD and square_S are of x - shift, for a mean far from the origin would eat the
    digits of the spread.

    tokens_S: tokens. error_VS: sum ||x - r||^2. active_VS: active features.
    """

    shift_D: Float64
    tokens_S: Int64
    sum_SD: Float64
    square_S: Float64
    error_VS: Float64
    active_VS: Int64

    @classmethod
    def empty(cls, shift_D: Float64, n_groups: int, n_dictionaries: int) -> Reconstruction:
        n_strata = len(CLASSES) * n_groups
        return cls(
            shift_D,
            np.zeros(n_strata, np.int64),
            np.zeros((n_strata, len(shift_D))),
            np.zeros(n_strata),
            np.zeros((n_dictionaries, n_strata)),
            np.zeros((n_dictionaries, n_strata), np.int64),
        )

    @property
    def n_groups(self) -> int:
        return len(self.tokens_S) // len(CLASSES)

    def add_tokens(self, x_TD: torch.Tensor, stratum_T: Int64) -> None:
        """Fold in activations, whoever explains them."""
        shifted_TD = x_TD.double() - torch.from_numpy(self.shift_D).to(x_TD.device)
        at_T = torch.from_numpy(stratum_T).to(x_TD.device)
        sum_SD = torch.zeros(self.sum_SD.shape, dtype=torch.float64, device=x_TD.device)
        self.sum_SD += sum_SD.index_add_(0, at_T, shifted_TD).cpu().numpy()
        self.square_S += self._by_stratum(stratum_T, shifted_TD.square().sum(1).cpu().numpy())
        self.tokens_S += np.bincount(stratum_T, minlength=len(self.tokens_S))

    def add_errors(
        self, dictionary: int, x_TD: torch.Tensor, r_TD: torch.Tensor, active_T: Int64, stratum_T: Int64
    ) -> None:
        """Fold in what a dictionary leaves unexplained of them, and how many of its features it takes."""
        error_T = (x_TD.double() - r_TD.double()).square().sum(1).cpu().numpy()
        self.error_VS[dictionary] += self._by_stratum(stratum_T, error_T)
        self.active_VS[dictionary] += self._by_stratum(stratum_T, active_T).astype(np.int64)

    def merge(self, other: Reconstruction) -> None:
        """Add the sums of other tokens."""
        self.tokens_S += other.tokens_S
        self.sum_SD += other.sum_SD
        self.square_S += other.square_S
        self.error_VS += other.error_VS
        self.active_VS += other.active_VS

    def _by_stratum(self, stratum_T: Int64, value_T: np.ndarray) -> Float64:
        sums_S: Float64 = np.bincount(
            stratum_T, weights=value_T.astype(np.float64), minlength=len(self.tokens_S)
        ).astype(np.float64)
        return sums_S

    def strata(self, kind: int, group: int | None = None) -> Int64:
        """Rows of S: a kind of token in one group of cells, or in all."""
        first = kind * self.n_groups
        return np.arange(first, first + self.n_groups) if group is None else np.array([first + group])

    def mean(self, strata: Int64) -> Float64:
        """Mean activation [D] over some strata."""
        n_tokens = max(int(self.tokens_S[strata].sum()), 1)
        mean_D: Float64 = self.shift_D + self.sum_SD[strata].sum(axis=0) / n_tokens
        return mean_D

    def variance_sum(self, strata: Int64, around_D: Float64 | None = None) -> float:
        """Sum ||x - mean||^2 over some strata; around their own mean unless told otherwise."""
        n_tokens, sum_D = int(self.tokens_S[strata].sum()), self.sum_SD[strata].sum(axis=0)
        squares = float(self.square_S[strata].sum())
        if around_D is None:
            return squares - float(sum_D @ sum_D) / max(n_tokens, 1)
        offset_D = around_D - self.shift_D
        return squares - 2 * float(offset_D @ sum_D) + n_tokens * float(offset_D @ offset_D)

    def row(self, dictionary: int, strata: Int64) -> dict[str, float]:
        """FVU and L0 of one dictionary over some strata; NaN where there is nothing to explain."""
        n_tokens = int(self.tokens_S[strata].sum())
        error, around = float(self.error_VS[dictionary, strata].sum()), self.mean(self.strata(GENE))
        own, common = self.variance_sum(strata), self.variance_sum(strata, around)
        return {
            "n_tokens": n_tokens,
            "fvu": error / own if own > 0 else float("nan"),
            "fvu_common": error / common if common > 0 else float("nan"),
            "l0": float(self.active_VS[dictionary, strata].sum()) / n_tokens if n_tokens else float("nan"),
            "error_sum": error,
            "variance_sum": own,
        }
