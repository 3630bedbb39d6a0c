"""64 bins for the strongest activation of a feature in a cell, evenly spaced in its logarithm.

Each feature has a range of its own, taken from a sample of cells: cells that tell labels apart differ by far
less than a factor of two in their maxima, and bins of one width for all features (four an octave, as for
activations of tokens) would lump them together. With 62 bins over a feature's own range the AUROC of binned
maxima is within 2e-4 of the exact one (tests/interpret/evaluation/test_cell_bins.py).

Shape legend: F features, N (feature, cell) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.interpret.levels import BINS
from engine.interpret.runs import Float32, Float64, Int64

INNER = BINS - 2
"""Bins inside a feature's range; the first and the last hold what lies below and above it."""
MARGIN = 0.25
"""Share by which a range is widened on either side (in logarithms): other cells may lie beyond the sample."""
NARROWEST = 0.1
"""Octaves: a feature that fired in one cell of the sample has no range of its own."""


@dataclass(frozen=True)
class CellBins:
    """Bins of every feature: low_F, the logarithm (base 2) where the second bin begins, and its bins'
    width_F."""

    low_F: Float64
    width_F: Float64

    @classmethod
    def of_sample(cls, feature_N: Int64, peak_N: Float32, n_features: int) -> CellBins:
        """From the strongest activation (> 0) of features in some cells.

        Features that fire in none of them share the range of all; of those little is known anyway, and their
        AUROC lives from where they fire at all.
        """
        log_N = np.log2(peak_N.astype(np.float64))
        low, high = (float(log_N.min()), float(log_N.max())) if len(log_N) else (-1.0, 0.0)
        low_F, high_F = np.full(n_features, np.inf), np.full(n_features, -np.inf)
        np.minimum.at(low_F, feature_N, log_N)
        np.maximum.at(high_F, feature_N, log_N)
        silent_F = np.isinf(low_F)
        low_F[silent_F], high_F[silent_F] = low, high
        reach_F = np.maximum(high_F - low_F, NARROWEST)
        return cls(low_F - MARGIN * reach_F, (1 + 2 * MARGIN) * reach_F / INNER)

    def __call__(self, feature_N: Int64, peak_N: Float32) -> Int64:
        """Bin of each maximum, 0 to 63."""
        log_N = np.log2(peak_N.astype(np.float64))
        place_N = np.floor((log_N - self.low_F[feature_N]) / self.width_F[feature_N]) + 1
        bins: Int64 = np.clip(place_N, 0, BINS - 1).astype(np.int64)
        return bins
