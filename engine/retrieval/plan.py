"""Which way to search a segment: all rows, the rows that pass a condition, or a shortlist by short codes.

The costs are of one core with 512 dimensions (tests/benchmarks/index.py); only their ratios matter. What is
never traded is recall: a shortlist is considered only if it was measured, on cells of this index, to contain
the true neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Way = Literal["scan", "gather", "shortlist", "ivf"]

# Nanoseconds a row: read in order in float16, fetched from where it lies and scored exactly, by its code.
_SCANNED, _GATHERED, _CODED = 50.0, 110.0, 2.0

# Share of the true ten nearest that a shortlist must have held when it was measured.
RECALL = 0.99
# Lengths measured when an index is built.
LENGTHS = (100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800)
_MEASURED_K = 10


@dataclass(frozen=True)
class Shortlist:
    """recalls: length -> share of the true ten nearest it held, in an index of `n_rows`."""

    n_rows: int
    recalls: Mapping[int, float]

    def length(self, n_rows: int, k: int) -> int | None:
        """Rows to score exactly for k results of an index of n_rows; None where no length is good enough.

        Twice the shortest that was good enough, longer in proportion for more results and for more rows than
        it was measured on: queries from elsewhere (text) are further off than cells are.
        """
        enough = [length for length, recall in sorted(self.recalls.items()) if recall >= RECALL]
        if not enough:
            return None
        growth = max(1.0, n_rows / max(self.n_rows, 1)) * max(1.0, k / _MEASURED_K)
        return int(2 * enough[0] * growth)


def way_of(n_rows: int, n_passing: int, shortlist: int | None) -> Way:
    """The cheapest way for a segment of which n_passing rows may be found."""
    costs: dict[Way, float] = {"scan": n_rows * _SCANNED, "gather": n_passing * _GATHERED}
    if shortlist is not None:
        costs["shortlist"] = n_rows * _CODED + min(shortlist, n_passing) * _GATHERED
    return min(costs, key=lambda way: (costs[way], way))
