"""Linear CKA: do two representations put the same cells close to each other?

Kornblith et al., arXiv 1905.00414. With more features than cells the plain estimate is high for anything, so
the unbiased one (Song et al. 2012, as in Nguyen et al., arXiv 2010.15327) stands beside it: 0 is chance.

Shape legend: C cells, F and G columns of the two sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from engine.interpret.runs import Float32, Float64

BLOCK_CELLS = 1024
FEWEST_CELLS = 4
"""The unbiased estimate divides by C - 3."""

# KL, KK, LL.
_SIDES = ((0, 1), (0, 0), (1, 1))

Matrix = sparse.csr_matrix | Float32


@dataclass(frozen=True)
class CKA:
    """plain: Kornblith's, biased upward. unbiased: 0 for unrelated sides, may be slightly below."""

    plain: float
    unbiased: float
    n_cells: int


def linear_cka(one_CF: Matrix, other_CG: Matrix, *, block: int = BLOCK_CELLS) -> CKA | None:
    """Of the same cells in both; None for fewer than `FEWEST_CELLS`.

    Works on products of cells, `block` x `block` at a time: neither a C x C nor an F x G matrix exists.
    """
    n_cells = one_CF.shape[0]
    if n_cells < FEWEST_CELLS:
        return None
    sums = _Sums(n_cells)
    for row in range(0, n_cells, block):
        for column in range(0, n_cells, block):
            one = _products(one_CF[row : row + block], one_CF[column : column + block])
            other = _products(other_CG[row : row + block], other_CG[column : column + block])
            sums.add(row, one, other, diagonal=row == column)
    return CKA(sums.biased(), sums.unbiased(), n_cells)


class _Sums:
    """What both estimates need of the two Gram matrices K and L: sums of products, of rows, and of the
    diagonals."""

    def __init__(self, n_cells: int) -> None:
        self.n = n_cells
        self.products = np.zeros(3)
        self.rows, self.diagonals = np.zeros((2, n_cells)), np.zeros((2, n_cells))

    def add(self, row: int, one: Float64, other: Float64, *, diagonal: bool) -> None:
        stop = row + len(one)
        self.products += [np.vdot(one, other), np.vdot(one, one), np.vdot(other, other)]
        for side, gram in enumerate((one, other)):
            self.rows[side, row:stop] += gram.sum(axis=1)
            if diagonal:
                self.diagonals[side, row:stop] = gram.diagonal()

    def biased(self) -> float:
        """From the centred matrices."""
        return _ratio(
            [
                self.products[number]
                - 2 / self.n * self.rows[one] @ self.rows[other]
                + self.rows[one].sum() * self.rows[other].sum() / self.n**2
                for number, (one, other) in enumerate(_SIDES)
            ]
        )

    def unbiased(self) -> float:
        """From Song's estimates, times n (n - 3), which cancels; diagonals count as 0."""
        n, rows = self.n, self.rows - self.diagonals
        return _ratio(
            [
                self.products[number]
                - self.diagonals[one] @ self.diagonals[other]
                + rows[one].sum() * rows[other].sum() / ((n - 1) * (n - 2))
                - 2 / (n - 2) * rows[one] @ rows[other]
                for number, (one, other) in enumerate(_SIDES)
            ]
        )


def _products(one: Matrix, other: Matrix) -> Float64:
    # Sums of squares before the means are taken off: float32 would lose what is left.
    products: Any = one.astype(np.float64) @ other.astype(np.float64).T
    return products if isinstance(products, np.ndarray) else np.asarray(products.toarray())


def _ratio(sums: Sequence[float]) -> float:
    """Of KL to KK and LL; 0 where a side does not vary."""
    cross, one, other = sums
    return float(cross / np.sqrt(one * other)) if one > 0 and other > 0 else 0.0
