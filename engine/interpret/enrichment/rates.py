"""How much is found, and how much of it chance finds as well: the table of rates.

Shape legend: F lists, S sources, E entries of the tail table, N reported tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from engine.interpret.enrichment.exact import Scan
from engine.interpret.enrichment.study import Correction, Shuffle, Study
from engine.interpret.runs import Float64, Int64
from engine.interpret.statistics import benjamini_hochberg

ALL_SOURCES = "all"
ADDED = ("n_terms", "n_tests", "significant", "significant_by")
"""Columns whose values of all sources are sums."""


@dataclass
class Chance:
    """What permutations found so far, beside what was observed. One entry a permutation in each list.

    pairs: significant pairs of each source, corrected within the permutation. at_limit: pairs below the
    largest p that is significant in the observed tests. features: lists with a significant pair, of each
    source and, last, of any.
    """

    study: Study
    observed: Sequence[Correction]
    reported: Sequence[tuple[Int64, Float64]] = ()
    """(list, p) of the tests to be compared with the best of each permutation, by source."""
    pairs: list[list[int]] = field(default_factory=list)
    at_limit: list[list[int]] = field(default_factory=list)
    features: list[list[int]] = field(default_factory=list)
    as_strong: list[Int64] = field(init=False)

    def __post_init__(self) -> None:
        self.as_strong = [np.zeros(list_N.size, np.int64) for list_N, _ in self.reported]

    def add(self, shuffle: Shuffle) -> None:
        study = self.study
        corrections = [Correction.of(study.table, count_E, study.alpha) for count_E in shuffle.count_SE]
        self.pairs.append(
            [one.found(study, count_E) for one, count_E in zip(corrections, shuffle.count_SE, strict=True)]
        )
        self.at_limit.append(
            [
                one.found(study, count_E, one.limit)
                for one, count_E in zip(self.observed, shuffle.count_SE, strict=True)
            ]
        )
        hit_SF = shuffle.best_SF <= np.array([one.limit for one in corrections])[:, None]
        self.features.append([*hit_SF.sum(axis=1).tolist(), int(hit_SF.any(axis=0).sum())])
        for (list_N, p_N), counted, best_F in zip(
            self.reported, self.as_strong, shuffle.best_SF, strict=False
        ):
            counted += best_F[list_N] <= p_N

    def share(self, source: int) -> Float64:
        """Of each reported test: share of permutations (the observed tests count as one) in which the list's
        best term of the source is at least as strong. NaN without permutations."""
        drawn = len(self.pairs)
        counted = self.as_strong[source]
        return (counted + 1) / (drawn + 1) if drawn else np.full(counted.size, np.nan)


def corrections_of(study: Study, scans: Sequence[Scan]) -> list[Correction]:
    """One family per source: all lists x all its terms."""
    return [Correction.of(study.table, one.count_E, study.alpha) for one in scans]


def rate_table(
    subject: str, study: Study, scans: Sequence[Scan], corrections: Sequence[Correction], chance: Chance
) -> pd.DataFrame:
    """One row per source and one for all of them; see docs/guides/enrichment.md for the columns."""
    hit_SF = np.stack([one.best_F for one in scans]) <= np.array([one.limit for one in corrections])[:, None]
    annotated_SF = np.stack([benjamini_hochberg(one.simes_F) <= study.alpha for one in scans])
    rows = []
    for place, (terms, one, fixed) in enumerate(zip(study.sources, scans, corrections, strict=True)):
        by_E = (fixed.by_E <= study.alpha) & (study.table.overlaps >= study.min_overlap)
        rows.append(
            {
                "source": terms.source,
                "n_terms": len(terms),
                "n_tests": fixed.n_tests,
                "p_limit": max(fixed.limit, 0.0),
                "significant": fixed.found(study, one.count_E),
                "significant_by": int(one.count_E[by_E].sum()),
                "features_with_term": int(hit_SF[place].sum()),
                "features_annotated": int(annotated_SF[place].sum()),
                **_of_chance(chance, place),
            }
        )
    table = pd.DataFrame(rows)
    summed = table[[*ADDED, "null_significant", "null_at_limit"]].sum(min_count=1)
    of_all = {
        **summed.to_dict(),
        "source": ALL_SOURCES,
        "p_limit": np.nan,
        "features_with_term": int(hit_SF.any(axis=0).sum()),
        "features_annotated": int(annotated_SF.any(axis=0).sum()),
        "null_features": _mean([row[-1] for row in chance.features]),
        "null_significant_sd": _spread([sum(row) for row in chance.pairs]),
    }
    table = pd.concat([table, pd.DataFrame([of_all])], ignore_index=True)
    counts = [
        "n_terms",
        "n_tests",
        "significant",
        "significant_by",
        "features_with_term",
        "features_annotated",
    ]
    table = table.astype(dict.fromkeys(counts, np.int64))
    table.insert(0, "subject", subject)
    table.insert(2, "n_features", len(study.lists))
    table["null_ratio"] = _ratio(table["null_significant"], table["significant"])
    table["empirical_fdr"] = _ratio(table["null_at_limit"], table["significant"])
    table["null_features_ratio"] = _ratio(table["null_features"], table["features_with_term"])
    return table


def _of_chance(chance: Chance, place: int) -> dict[str, float]:
    pairs = [row[place] for row in chance.pairs]
    return {
        "null_significant": _mean(pairs),
        "null_significant_sd": _spread(pairs),
        "null_at_limit": _mean([row[place] for row in chance.at_limit]),
        "null_features": _mean([row[place] for row in chance.features]),
    }


def _mean(values: Sequence[int]) -> float:
    return float(np.mean(values)) if values else np.nan


def _spread(values: Sequence[int]) -> float:
    return float(np.std(values)) if values else np.nan


def _ratio(found_by_chance: pd.Series, found: pd.Series) -> Float64:
    """Chance over observed; NaN where nothing was observed."""
    above, below = found_by_chance.to_numpy(np.float64), found.to_numpy(np.float64)
    ratio: Float64 = np.divide(above, below, out=np.full(above.size, np.nan), where=below > 0)
    return ratio
