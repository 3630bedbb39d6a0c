"""How alike the features of two autoencoders are, one block of pairs at a time.

A million features against a million would be a matrix of 4 TB, so nothing here can make one: whoever wants to
know asks for the pairs of some rows and some columns.

Shape legend: F features of the one side, G of the other, D width, T tokens or cells; f and g features of a
block, P pairs and p some of them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from scipy import sparse

from engine.interpret.runs import Float32, Float64, Int64

PAIRS_AT_ONCE = 4096


class Similarity(Protocol):
    """Of every feature of one side to every feature of the other, 1 for alike, 0 for nothing in common."""

    @property
    def shape(self) -> tuple[int, int]:
        """(F, G)."""

    def block(self, rows: slice, columns: slice, /) -> torch.Tensor:
        """`s_fg` float32 of some features of each side."""

    def of_pairs(self, one_P: Int64, other_P: Int64, /) -> Float32:
        """`s_P` of the given pairs alone."""

    def scrambled(self, features: Int64, /) -> Similarity:
        """Of some features of the first side, made unrelated to the other: what chance gives."""


class DecoderCosine:
    """Cosine of decoder directions, for autoencoders of the same activations. A direction of length 0 is like
    nothing.

    one_FD, other_GD: rows of `W_dec`, of any length, on any one device.
    """

    def __init__(self, one_FD: torch.Tensor, other_GD: torch.Tensor) -> None:
        if one_FD.shape[1] != other_GD.shape[1]:
            raise ValueError(
                f"directions of width {one_FD.shape[1]} and {other_GD.shape[1]} have no angle; compare their "
                "activations instead"
            )
        self._sides = one_FD.detach(), other_GD.detach()
        # Lengths, not normalised copies: at a million features a copy is 10 GB.
        self._per_length = tuple(_reciprocal(side.float().norm(dim=1)) for side in self._sides)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self._sides[0]), len(self._sides[1])

    def block(self, rows: slice, columns: slice, /) -> torch.Tensor:
        (one, other), (per_F, per_G) = self._sides, self._per_length
        s_fg = one[rows].float() @ other[columns].float().T
        return s_fg.mul_(per_F[rows, None]).mul_(per_G[columns])

    def of_pairs(self, one_P: Int64, other_P: Int64, /) -> Float32:
        (one, other), (per_F, per_G) = self._sides, self._per_length
        parts = [np.empty(0, np.float32)]
        for start in range(0, len(one_P), PAIRS_AT_ONCE):
            row_p, column_p = (
                torch.from_numpy(side[start : start + PAIRS_AT_ONCE]) for side in (one_P, other_P)
            )
            s_p = (one[row_p].float() * other[column_p].float()).sum(dim=1) * per_F[row_p] * per_G[column_p]
            parts.append(s_p.cpu().numpy())
        return np.concatenate(parts)

    def scrambled(self, features: Int64, /) -> DecoderCosine:
        """The axes of their space are permuted, and random ones turned round."""
        one_fD = self._sides[0][torch.from_numpy(features)].float()
        generator = torch.Generator().manual_seed(0)
        axes = torch.randperm(one_fD.shape[1], generator=generator).to(one_fD.device)
        signs = torch.randint(0, 2, (len(axes),), generator=generator).to(one_fD) * 2 - 1
        return DecoderCosine(one_fD[:, axes] * signs, self._sides[1])


class CodeCorrelation:
    """Pearson's correlation of activations on the same tokens (or cells). A feature that never fires, or
    always with the same strength, is like nothing.

    one_TF, other_TG: codes, row t of both about the same token.
    """

    def __init__(self, one_TF: sparse.csr_matrix, other_TG: sparse.csr_matrix) -> None:
        if one_TF.shape[0] != other_TG.shape[0]:
            raise ValueError(f"codes of {one_TF.shape[0]} and {other_TG.shape[0]} tokens are not aligned")
        self._n = max(one_TF.shape[0], 1)
        # By feature: the rows of a block are then next to each other.
        self._one_FT, self._other_GT = (codes.T.tocsr() for codes in (one_TF, other_TG))
        self._moments = tuple(_moments(by_feature) for by_feature in (self._one_FT, self._other_GT))

    @property
    def shape(self) -> tuple[int, int]:
        return self._one_FT.shape[0], self._other_GT.shape[0]

    def block(self, rows: slice, columns: slice, /) -> torch.Tensor:
        (mean_F, per_spread_F), (mean_G, per_spread_G) = self._moments
        # Half a million float32 terms would lose four of seven digits.
        one_fT, other_gT = (side.astype(np.float64) for side in (self._one_FT[rows], self._other_GT[columns]))
        products_fg = (one_fT @ other_gT.T).toarray()
        products_fg /= self._n
        products_fg -= np.outer(mean_F[rows], mean_G[columns])
        products_fg *= per_spread_F[rows, None]
        products_fg *= per_spread_G[columns]
        return torch.from_numpy(products_fg.astype(np.float32))

    def of_pairs(self, one_P: Int64, other_P: Int64, /) -> Float32:
        (mean_F, per_spread_F), (mean_G, per_spread_G) = self._moments
        parts = [np.empty(0, np.float32)]
        for start in range(0, len(one_P), PAIRS_AT_ONCE):
            row_p, column_p = (side[start : start + PAIRS_AT_ONCE] for side in (one_P, other_P))
            one_pT, other_pT = self._one_FT[row_p].astype(np.float64), self._other_GT[column_p]
            together = one_pT.multiply(other_pT).sum(axis=1)
            s_p = np.asarray(together).ravel() / self._n - mean_F[row_p] * mean_G[column_p]
            parts.append((s_p * per_spread_F[row_p] * per_spread_G[column_p]).astype(np.float32))
        return np.concatenate(parts)

    def scrambled(self, features: Int64, /) -> CodeCorrelation:
        """Their tokens are permuted, all in the same way."""
        order = np.random.default_rng(0).permutation(self._one_FT.shape[1])
        return CodeCorrelation(self._one_FT[features].T.tocsr()[order], self._other_GT.T.tocsr())


def _moments(by_feature: sparse.csr_matrix) -> tuple[Float64, Float64]:
    """(mean, one over the standard deviation) of every feature; 0 for the latter where it does not vary."""
    n = max(by_feature.shape[1], 1)
    ones = np.ones(by_feature.shape[1])
    mean_F: Float64 = by_feature @ ones / n
    variance_F = by_feature.astype(np.float64).power(2) @ ones / n - mean_F**2
    # Rounding leaves a variance of this size to a feature that is constant.
    varies_F = variance_F > 1e-6 * mean_F**2
    return mean_F, np.where(varies_F, 1 / np.sqrt(np.where(varies_F, variance_F, 1.0)), 0.0)


def _reciprocal(length_F: torch.Tensor) -> torch.Tensor:
    return torch.where(length_F > 0, 1 / length_F, torch.zeros_like(length_F))
