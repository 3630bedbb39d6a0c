"""Counts to the scales that metrics are defined on. Legend: C cells, G genes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import sparse

from engine.perturbation.rank_sum import Array
from storage.errors import InputError

Scale = Literal["counts", "log1p"]
DEPTH = 1e4
"""Counts a cell is scaled to before log1p, unless said otherwise."""
# cell-eval 0.8: a fractional part above this is no integer, a log1p value of this size is none.
FRACTION, LARGEST_LOG = 1e-3, 15.0


def scale_of(where: str, values: np.ndarray) -> Scale:
    """Whether stored values are raw counts or log1p-normalised. Raises InputError for anything else."""
    if len(values) and not np.isfinite(values).all():
        raise InputError(f"{where}: holds NaN or infinite values.")
    if len(values) and values.min() < 0:
        raise InputError(
            f"{where}: holds {values.min():.3g}; expression must not be negative. Give counts or log1p of "
            "normalised counts, not scaled values or differences."
        )
    if not (np.modf(values)[0] > FRACTION).any():
        return "counts"
    if values.max() >= LARGEST_LOG:
        raise InputError(
            f"{where}: holds fractions and values up to {values.max():.1f}; expected integer counts, or "
            f"log1p-normalised values below {LARGEST_LOG:g}."
        )
    return "log1p"


def log_normalised(counts_CG: sparse.csr_matrix, depth: float = DEPTH) -> sparse.csr_matrix:
    """log1p of counts scaled to `depth` a cell, float32 as the field computes it; empty cells stay empty."""
    total_C = np.asarray(counts_CG.sum(axis=1), dtype=np.float64).ravel()
    factor_C = np.where(total_C > 0, total_C / depth, 1.0).astype(np.float32)
    found = counts_CG.astype(np.float32)
    found.data = np.log1p(found.data / np.repeat(factor_C, np.diff(found.indptr)))
    return found


def per_million(counts_CG: sparse.csr_matrix) -> sparse.csr_matrix:
    """Counts per million of each cell, float64."""
    total_C = np.asarray(counts_CG.sum(axis=1), dtype=np.float64).ravel()
    found = counts_CG.astype(np.float64)
    found.data *= np.repeat(1e6 / np.where(total_C > 0, total_C, 1.0), np.diff(found.indptr))
    return found


def bulk_log(sum_G: Array, depth: float = 5e4) -> Array:
    """log1p of a group's summed counts scaled to `depth`: the profile of vcc2026."""
    total = sum_G.sum()
    return np.log1p(depth * sum_G / (total if total > 0 else 1.0))
