"""Activations as integer levels: the bins of histograms, and ranks for AUROC.

A float32 above zero, read as an integer, keeps its order; cutting bits off its mantissa makes bins of equal
width within each octave.
"""

from __future__ import annotations

import numpy as np

from engine.interpret.runs import Float32, Float64, Int64

BINS = 64
"""Four to an octave over sixteen octaves: from 2^-14 of a sample's largest activation to four times it."""
_BINS_PER_OCTAVE = 4
_MANTISSA_BITS = 23
_CUT = _MANTISSA_BITS - 2
RESOLUTION_BITS = 28
"""Activations are summed in units 2^-28 of a sample's largest: 16 times as fine as float32 keeps of it."""
_LOWEST_BITS = RESOLUTION_BITS - 14

EXACT_LEVELS = 1 << (8 + _MANTISSA_BITS)
"""Number of levels `exact_level` can return: 8 exponent bits and 23 of mantissa."""


def exact_level(value: Float32) -> Int64:
    """A level for each float32: distinct activations keep distinct levels."""
    return np.ascontiguousarray(value, dtype=np.float32).view(np.int32).astype(np.int64)


def log_bin(value: Float32, resolution: float) -> Int64:
    """Bin of each activation above zero, 0 to 63; what lies outside goes into the first or last bin."""
    lowest = int(np.float32(resolution * 2.0**_LOWEST_BITS).view(np.int32)) >> _CUT
    octaves = (np.ascontiguousarray(value, dtype=np.float32).view(np.int32) >> _CUT) - np.int32(lowest)
    bins: Int64 = np.clip(octaves, 0, BINS - 1, out=octaves).astype(np.int64)
    return bins


def bin_edges(resolution: float) -> Float64:
    """The 65 edges of the bins; activations below the first or from the last on are counted all the same."""
    octave, quarter = np.divmod(np.arange(BINS + 1), _BINS_PER_OCTAVE)
    edges: Float64 = resolution * 2.0**_LOWEST_BITS * 2.0**octave * (1 + quarter / _BINS_PER_OCTAVE)
    return edges
