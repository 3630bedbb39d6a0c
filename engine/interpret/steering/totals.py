"""What effects add up to: sums by gene, which merge exactly enough, and the rows of cells.

Legend: R gene tokens of a batch, V versions, Q quantities, G token ids, S genes seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.interpret.runs import Float32, Float64, Int64


@dataclass
class GeneSums:
    """By gene: cells it occurs in, its predicted value there, and the change with its square, float64."""

    count_G: Int64
    base_QG: Float64
    change_VQG: Float64
    square_VQG: Float64

    @classmethod
    def empty(cls, n_versions: int, n_quantities: int, n_ids: int) -> GeneSums:
        return cls(
            np.zeros(n_ids, np.int64),
            np.zeros((n_quantities, n_ids)),
            np.zeros((n_versions, n_quantities, n_ids)),
            np.zeros((n_versions, n_quantities, n_ids)),
        )

    def add(self, gene_R: npt.NDArray[np.int64], base_QR: Float32, change_VQR: Float32) -> None:
        """A cell has a gene once, so tokens of a gene are cells."""
        n_ids = len(self.count_G)
        self.count_G += np.bincount(gene_R, minlength=n_ids)
        for quantity, base_R in enumerate(base_QR):
            self.base_QG[quantity] += np.bincount(gene_R, weights=base_R, minlength=n_ids)
        for version, change_QR in enumerate(change_VQR):
            for quantity, change_R in enumerate(change_QR):
                change_R = change_R.astype(np.float64)
                self.change_VQG[version, quantity] += np.bincount(gene_R, change_R, n_ids)
                self.square_VQG[version, quantity] += np.bincount(gene_R, change_R**2, n_ids)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The genes seen, for disk."""
        seen_S = np.flatnonzero(self.count_G)
        return {
            "gene_S": seen_S,
            "count_S": self.count_G[seen_S],
            "base_QS": self.base_QG[:, seen_S],
            "change_VQS": self.change_VQG[:, :, seen_S],
            "square_VQS": self.square_VQG[:, :, seen_S],
        }

    @classmethod
    def merged(cls, n_ids: int, parts: Iterable[Mapping[str, npt.NDArray[Any]]]) -> GeneSums:
        """The sum of what `arrays` gave, in the order given."""
        total: GeneSums | None = None
        for part in parts:
            if total is None:
                n_versions, n_quantities, _ = part["change_VQS"].shape
                total = cls.empty(n_versions, n_quantities, n_ids)
            gene_S = part["gene_S"]
            total.count_G[gene_S] += part["count_S"]
            total.base_QG[:, gene_S] += part["base_QS"]
            total.change_VQG[:, :, gene_S] += part["change_VQS"]
            total.square_VQG[:, :, gene_S] += part["square_VQS"]
        if total is None:
            raise ValueError("no part to merge")
        return total
