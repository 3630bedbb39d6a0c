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

# Tokens binned at once: what is computed for them stays in a core's cache.
_TOKENS = 1 << 17
# A table of all cells by all levels may have so many entries for each token.
_SPARSEST = 8


def bin_values(
    values_T: FloatArray, lengths: IntArray, *, n_bins: int = 51, right: bool = False
) -> FloatArray:
    """Bin of every value within its cell.

    values_T: float32, the cells' values one cell after the other; lengths: values per cell.
    Returns float32 bins from 1 to n_bins - 1. Zeros are left out of the quantiles; they get bin 1, or 0 with
    right=True, also in a cell that holds nothing else.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    bins_T = np.empty(len(values_T), np.float32)
    first = 0
    while first < len(lengths):
        stop = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _TOKENS, side="right")) - 1)
        tokens = slice(offsets[first], offsets[stop])
        bins_T[tokens] = _bins(values_T[tokens], lengths[first:stop], n_bins - 1, right)
        first = stop
    return bins_T


def _bins(values_T: FloatArray, lengths: IntArray, n_edges: int, right: bool) -> FloatArray:
    """By counting: counts take few different values, so cells are histograms over these, the levels."""
    levels_L, level_T = _levels(values_T)
    n_cells, n_levels = len(lengths), len(levels_L)
    if n_cells > 1 and n_cells * n_levels > _SPARSEST * len(values_T) + 4096:
        half = n_cells // 2
        cut = int(lengths[:half].sum())
        parts = ((values_T[:cut], lengths[:half]), (values_T[cut:], lengths[half:]))
        return np.concatenate([_bins(*part, n_edges, right) for part in parts])
    level_T += np.repeat(np.arange(n_cells) * n_levels, lengths)
    times_CL = np.bincount(level_T, minlength=n_cells * n_levels).reshape(n_cells, n_levels)
    times_CL[:, levels_L == 0] = 0
    n_C = times_CL.sum(axis=1)
    filled = np.flatnonzero(n_C)
    bins_CL = np.zeros((n_cells, n_levels), np.float32)
    if len(filled):
        sorted_T = np.repeat(np.broadcast_to(levels_L, times_CL.shape).ravel(), times_CL.ravel())
        edges_CE = _quantiles(sorted_T, n_C[filled], n_edges)
        row_D, level_D = np.nonzero(times_CL[filled])
        value_D, edges_DE = levels_L[level_D][:, None], edges_CE[row_D]
        passed_DE = edges_DE <= value_D if right else edges_DE < value_D
        bins_CL[filled[row_D], level_D] = passed_DE.sum(axis=1)
    bins_T: FloatArray = bins_CL.ravel()[level_T]
    return bins_T if right else bins_T + np.float32(1)


def _levels(values_T: FloatArray) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Ascending values that hold all of values_T, and the place of each value among them."""
    if len(values_T) and values_T.min() >= 0 and values_T.max() < 1 << 20:
        whole_T = values_T.astype(np.int64)
        if bool((whole_T == values_T).all()):
            present = np.zeros(int(whole_T.max()) + 1, bool)
            present[whole_T] = True
            levels = np.flatnonzero(present)
            place = np.cumsum(present) - 1
            return levels.astype(np.float32), place[whole_T]
    levels_L, level_T = np.unique(values_T, return_inverse=True)
    return levels_L, level_T.astype(np.int64)


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
