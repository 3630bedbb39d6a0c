"""Numbers for a page: few digits, and none that JSON does not have."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def rounded(values: Iterable[float], digits: int = 4) -> list[float | None]:
    """So many significant digits; NaN becomes None, infinity the string a page shows for it."""
    return [_one(float(value), digits) for value in np.asarray(list(values), np.float64).tolist()]


def _one(value: float, digits: int) -> float | None:
    if value != value:
        return None
    if value in (np.inf, -np.inf):
        return 1e300 if value > 0 else -1e300
    return float(f"{value:.{digits}g}")
