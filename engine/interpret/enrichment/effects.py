"""How strong an overlap is, beside how unlikely: odds ratios with intervals, fold, Jaccard."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.interpret.runs import Float64, Int64
from engine.interpret.statistics import odds_ratio

# Two-sided 95 % of the normal distribution.
_Z95 = 1.959963984540054


class Effects(NamedTuple):
    """Effect sizes of overlaps, one entry a test.

    odds: sample odds ratio (infinite when a cell of the table is empty, NaN when a margin is). haldane: with
    half a gene added to every cell, so always finite; low, high: its 95 % interval (Woolf's, on the same
    cells).
    """

    odds: Float64
    haldane: Float64
    low: Float64
    high: Float64
    expected: Float64
    fold: Float64
    jaccard: Float64


def effects(overlap: Int64, list_size: Int64, term_size: Int64, population: int) -> Effects:
    """Effect sizes of `overlap` genes between lists and terms out of `population`; sizes are integers."""
    hits, n, K = (np.asarray(sizes, np.int64) for sizes in (overlap, list_size, term_size))
    a, b, c = (cell + 0.5 for cell in (hits, n - hits, K - hits))
    d = population - n - K + hits + 0.5
    haldane = a * d / (b * c)
    spread = _Z95 * np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    expected = n * K / population
    with np.errstate(divide="ignore", invalid="ignore"):
        fold = np.where(expected > 0, hits / expected, 0.0)
        jaccard = np.where(n + K - hits > 0, hits / (n + K - hits), 0.0)
    return Effects(
        odds_ratio(hits, n, K - hits, np.asarray(population - n)),
        haldane,
        haldane * np.exp(-spread),
        haldane * np.exp(spread),
        expected,
        fold,
        jaccard,
    )
