"""Which way to search a segment: all rows, the rows that pass a condition, a shortlist by short codes, or
inverted lists.

The costs are of one core with 512 dimensions (tests/benchmarks/index.py); only their ratios matter. What is
never traded is recall: a shortlist, or a number of lists, is considered only if it was measured, on cells of
this index, to hold the true neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Way = Literal["scan", "gather", "shortlist", "ivf"]

# Nanoseconds a row: read in order in float16, fetched from where it lies, by its code; and of inverted lists:
# a list's centre, and a row of a list that is looked into.
_SCANNED, _GATHERED, _CODED = 40.0, 150.0, 3.2
_CENTRE, _LISTED = 60.0, 80.0

# Share of the true ten nearest that a shortlist, or lists, must have held when they were measured.
RECALL = 0.99
# Lengths measured when an index is built.
LENGTHS = (100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800)
# Numbers of lists measured when an index with inverted lists is built.
PROBES = (8, 16, 32, 64, 128, 256)
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
        growth = max(1.0, n_rows / max(self.n_rows, 1))
        return _with_reserve(self.recalls, growth * max(1.0, k / _MEASURED_K))


def probes_for(recalls: Mapping[int, float], k: int) -> int | None:
    """Inverted lists to look into for k results, of those that were measured: lists -> share of the true ten
    nearest they held. None where no number was good enough. Twice and in proportion, as for a shortlist.
    """
    return _with_reserve(recalls, max(1.0, k / _MEASURED_K))


def _with_reserve(recalls: Mapping[int, float], growth: float) -> int | None:
    enough = [n for n, recall in recalls.items() if recall >= RECALL]
    return int(2 * min(enough) * growth) if enough else None


def way_of(n_rows: int, n_passing: int, shortlist: int | None, lists: tuple[int, int] | None = None) -> Way:
    """The cheapest way for a segment of which n_passing rows may be found. lists: how many it has, and how
    many are to be looked into.
    """
    costs: dict[Way, float] = {"scan": n_rows * _SCANNED, "gather": n_passing * _GATHERED}
    if shortlist is not None:
        costs["shortlist"] = n_rows * _CODED + min(shortlist, n_passing) * _GATHERED
    if lists is not None:
        costs["ivf"] = lists[0] * _CENTRE + n_rows * min(1.0, lists[1] / lists[0]) * _LISTED
    return min(costs, key=lambda way: (costs[way], way))
