"""Token states to cell and gene embeddings.

Legend: T packed tokens, D width, C cells, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.models.layout import CellLayout


def first_rows(layout: CellLayout) -> Tensor:
    """Row of the first token of every cell that has one, int64 on the host."""
    return torch.from_numpy(layout.offsets[:-1][layout.lengths > 0])


def per_cell(x_RD: Tensor, layout: CellLayout) -> Tensor:
    """One row for every cell that has tokens -> float32 e_CD; NaN for a cell without."""
    if len(x_RD) == layout.n_cells:
        return x_RD.float()
    e_CD = x_RD.new_full((layout.n_cells, x_RD.shape[1]), float("nan"), dtype=torch.float32)
    e_CD[layout.lengths_C > 0] = x_RD.float()
    return e_CD


def pool_mean(x_TD: Tensor, layout: CellLayout, keep_T: Tensor | None = None) -> Tensor:
    """Mean over each cell's tokens (those with keep_T) -> float32 e_CD; NaN where there are none."""
    x_TD = x_TD.float()
    if keep_T is None:
        return _sum_per_cell(x_TD, layout) / layout.lengths_C[:, None]
    # Not by selecting them: how many there are would have to come back from a GPU first.
    sum_CD = _sum_per_cell(x_TD.masked_fill(~keep_T[:, None], 0), layout)
    return sum_CD / _sum_per_cell(keep_T[:, None].float(), layout)


def _sum_per_cell(x_TD: Tensor, layout: CellLayout) -> Tensor:
    """Sums whose order within a cell is the tokens', on any device, so that equal cells have equal sums."""
    if x_TD.is_cuda and layout.n_cells:
        # index_add_ adds in random order on CUDA. segment_reduce never does, but is 30 times slower on a CPU.
        # unsafe: it need not wait to check the lengths.
        return torch.segment_reduce(x_TD, "sum", lengths=layout.lengths_C, axis=0, unsafe=True)
    return x_TD.new_zeros((layout.n_cells, x_TD.shape[1])).index_add_(0, layout.cell_T, x_TD)


def gene_sums(x_TD: Tensor, ids_T: Tensor, n_vocabulary: int) -> tuple[Tensor, Tensor]:
    """Sum of token states per vocabulary id and how many there were -> float32 sum_VD, int64 count_V.

    Sums of batches add up; sum / count is the mean gene embedding (NaN for an id never seen).
    """
    sum_VD = x_TD.new_zeros((n_vocabulary, x_TD.shape[1]), dtype=torch.float32)
    sum_VD.index_add_(0, ids_T, x_TD.float())
    return sum_VD, torch.bincount(ids_T, minlength=n_vocabulary)
