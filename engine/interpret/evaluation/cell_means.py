"""What cells look like to a probe: mean activations over their genes, of dictionaries and of the model.

The mean is linear, so a probe that reads features and one that reads neurons are given the same thing in two
bases; a maximum would tell the first which genes are there at all.

Shape legend: C cells, D width, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from engine.interpret.evaluation.activity import CellCodes
from engine.interpret.runs import Float32, Int64


@dataclass
class CellMeans:
    """Parts as they were added: cells, their mean activations x_CD, and of every dictionary mean codes (CSR
    [cells, F])."""

    n_features: tuple[int, ...]
    cells: list[Int64] = field(default_factory=list)
    x_CD: list[Float32] = field(default_factory=list)
    codes: list[list[sparse.csr_matrix]] = field(default_factory=list)

    def add(
        self, cell_C: Int64, chosen_C: np.ndarray, tokens_C: Int64, x_CD: Float32, codes: list[CellCodes]
    ) -> None:
        """The chosen cells (bool) of a chunk; tokens_C: genes of each cell of the chunk."""
        place_C = np.where(chosen_C, np.cumsum(chosen_C) - 1, -1)
        rows, parts = np.flatnonzero(chosen_C), []
        for n_features, of_cells in zip(self.n_features, codes, strict=True):
            kept = np.flatnonzero(chosen_C[of_cells.slot_P])
            slot_P = of_cells.slot_P[kept]
            mean_P = of_cells.total_P[kept] / tokens_C[slot_P].astype(np.float32)
            at = place_C[slot_P], of_cells.feature_P[kept]
            parts.append(sparse.csr_matrix((mean_P, at), shape=(len(rows), n_features)))
        self.cells.append(cell_C[rows])
        self.x_CD.append(x_CD[rows])
        self.codes.append(parts)

    def merge(self, other: CellMeans) -> None:
        """Append the cells of a later member."""
        self.cells += other.cells
        self.x_CD += other.x_CD
        self.codes += other.codes

    def tables(self) -> tuple[Int64, Float32, list[sparse.csr_matrix]]:
        """cell_C, x_CD and the codes of every dictionary, over all cells."""
        return (
            np.concatenate(self.cells),
            np.concatenate(self.x_CD),
            [sparse.csr_matrix(sparse.vstack(column)) for column in zip(*self.codes, strict=True)],
        )
