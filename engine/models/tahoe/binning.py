"""Expression binning of Tahoe-x1, over all cells of a block at once and bit-identical to the original.

The original computes, per cell, torch.quantile in float32 over the non-zero values and counts the edges below
each value. Float64 quantiles would change a bin in about 2 % of cells, so every step here is float32.

Legend: T tokens of all cells, C cells, E edges.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from engine.models.tokens import FloatArray, IntArray

UINT64 = npt.NDArray[np.uint64]


def bin_values(
    values_T: FloatArray, lengths: IntArray, *, n_bins: int = 51, right: bool = False
) -> FloatArray:
    """Bin of every value within its cell.

    values_T: float32, the cells' values one cell after the other; lengths: values per cell.
    Returns float32 bins from 1 to n_bins - 1. Zeros are left out of the quantiles; they get bin 1, or 0 with
    right=True, also in a cell that holds nothing else.
    """
    bins_T = np.zeros(len(values_T), np.float32)
    nonzero_T = np.flatnonzero(values_T != 0)
    cell_T = np.repeat(np.arange(len(lengths)), lengths)[nonzero_T]
    if len(nonzero_T):
        n_C = np.bincount(cell_T, minlength=len(lengths))
        filled, first_T = np.flatnonzero(n_C), values_T[nonzero_T]
        row_T = (np.cumsum(n_C > 0) - 1)[cell_T].astype(np.uint64)
        key_T = _sortable(first_T, row_T)
        edges_CE = _quantiles(_unsortable(np.sort(key_T)), n_C[filled], n_bins - 1)
        # Edges of all cells lie in one sorted array of (cell, value) keys: one search bins every value.
        rows_CE = np.repeat(np.arange(len(filled), dtype=np.uint64), n_bins - 1)
        edge_keys = _sortable(edges_CE.reshape(-1), rows_CE)
        found_T = np.searchsorted(edge_keys, key_T, side="right" if right else "left")
        bins_T[nonzero_T] = found_T - row_T.astype(np.int64) * (n_bins - 1)
    return bins_T if right else bins_T + np.float32(1)


def log_values(values_T: FloatArray, lengths: IntArray, target_sum: float) -> FloatArray:
    """log1p of counts scaled to target_sum per cell: the original's alternative to binning."""
    cell_T = np.repeat(np.arange(len(lengths)), lengths)
    totals_C = np.bincount(cell_T, weights=values_T, minlength=len(lengths)).astype(np.float32)
    totals_T = (totals_C + np.float32(1e-9))[cell_T]
    scaled_T: FloatArray = np.log1p(values_T / totals_T * np.float32(target_sum))
    return scaled_T


def _quantiles(sorted_T: FloatArray, n_C: IntArray, n_edges: int) -> FloatArray:
    """torch.quantile(values, linspace(0, 1, n_edges)) of each cell's sorted values, in float32 as there."""
    # torch's own linspace: numpy's differs from it in the last bit.
    at_E = torch.linspace(0, 1, n_edges, dtype=torch.float32).numpy()
    rank_CE = at_E * (n_C - 1).astype(np.float32)[:, None]
    low_CE = np.floor(rank_CE)
    weight_CE = rank_CE - low_CE
    starts_C = (np.cumsum(n_C) - n_C)[:, None]
    a_CE = sorted_T[starts_C + low_CE.astype(np.int64)]
    b_CE = sorted_T[starts_C + np.ceil(rank_CE).astype(np.int64)]
    step_CE = b_CE - a_CE
    # torch's lerp: from the nearer end, so that weight 1 gives b exactly.
    nearer_a, nearer_b = a_CE + weight_CE * step_CE, b_CE - step_CE * (np.float32(1) - weight_CE)
    edges_CE: FloatArray = np.where(weight_CE < np.float32(0.5), nearer_a, nearer_b)
    return edges_CE


def _sortable(values: FloatArray, rows: UINT64) -> UINT64:
    """Keys that sort by row, then by float value: IEEE bits with the order of negatives reversed."""
    bits = (values + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0
    negative = (bits >> np.uint32(31)).astype(bool)
    ordered = np.where(negative, ~bits, bits | np.uint32(0x80000000))
    keys: UINT64 = (rows << np.uint64(32)) | ordered.astype(np.uint64)
    return keys


def _unsortable(keys: UINT64) -> FloatArray:
    ordered = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    positive = (ordered >> np.uint32(31)).astype(bool)
    return np.where(positive, ordered & np.uint32(0x7FFFFFFF), ~ordered).astype(np.uint32).view(np.float32)
