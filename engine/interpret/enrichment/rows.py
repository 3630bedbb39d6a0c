"""Tables from the tests: the terms of each feature, and one row per feature.

Shape legend: F lists, T terms, N reported tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.interpret.enrichment.effects import effects
from engine.interpret.enrichment.exact import KeptTests, Scan
from engine.interpret.enrichment.hierarchy import Hierarchy, ParentChild, most_specific, parent_child_p
from engine.interpret.enrichment.study import Correction, Study
from engine.interpret.runs import Float64, Int64, rank_within
from engine.interpret.statistics import benjamini_hochberg

GENE_SEPARATOR = "|"
TERM_COLUMNS = [
    "feature", "source", "rank", "group", "term_id", "term", "overlap", "list_genes", "term_genes",
    "background", "p", "q", "q_by", "q_all", "q_all_by", "q_within", "significant", "discovery",
    "odds_ratio", "odds_haldane", "odds_low", "odds_high", "fold", "jaccard", "null_share",
    "p_parent_child", "q_parent_child", "most_specific", "genes",
]  # fmt: skip


@dataclass(frozen=True)
class Reported:
    """The tests of one source that tables show: all that are significant, and the best of each list.

    selected_F: lists of which some term holds (Simes' p, Benjamini-Hochberg over lists).
    """

    source: int
    tests: KeptTests
    rank_N: Int64
    selected_F: np.ndarray

    @classmethod
    def of(cls, study: Study, source: int, one: Scan, correction: Correction, listed: int) -> Reported:
        kept = one.kept
        if kept is None:
            raise ValueError("a scan without tests to report; give keep_p")
        rank_N = rank_within(kept.list_N)
        chosen = np.flatnonzero((study.table.p_E[kept.entry_N] <= correction.limit) | (rank_N < listed))
        tests = KeptTests(*(getattr(kept, name)[chosen] for name in KeptTests.__dataclass_fields__))
        return cls(source, tests, rank_N[chosen], benjamini_hochberg(one.simes_F) <= study.alpha)

    def between(self, first: int, stop: int) -> slice:
        """The tests of lists [first, stop)."""
        return slice(*np.searchsorted(self.tests.list_N, [first, stop]).tolist())

    def compared(self, study: Study) -> tuple[Int64, Float64]:
        """(list, p) of each test."""
        return self.tests.list_N, study.table.p_E[self.tests.entry_N]


def term_table(
    study: Study,
    reported: Sequence[Reported],
    corrections: Sequence[Correction],
    everything: Correction,
    null_shares: Sequence[Float64],
    hierarchies: Sequence[tuple[Hierarchy, ParentChild] | None],
    first: int,
    stop: int,
) -> pd.DataFrame:
    """Rows (feature, source, rank) of lists [first, stop). `everything`: the family of all sources.

    Parent-child columns are NaN for sources without a hierarchy; there every significant term is its own
    most specific one.
    """
    parts = [
        _with_parents(
            study,
            one,
            hierarchies[one.source],
            _source_rows(study, one, corrections[one.source], everything, share_N, first, stop),
            one.between(first, stop),
        )
        for one, share_N in zip(reported, null_shares, strict=True)
    ]
    table = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    order = np.lexsort((table["rank"], table["source"], table["feature"]))
    return table.iloc[order].reset_index(drop=True)[TERM_COLUMNS]


def _source_rows(
    study: Study,
    reported: Reported,
    correction: Correction,
    everything: Correction,
    share_N: Float64,
    first: int,
    stop: int,
) -> pd.DataFrame:
    rows = reported.between(first, stop)
    terms, tests, table = study.sources[reported.source], reported.tests, study.table
    list_N, term_N, entry_N = tests.list_N[rows], tests.term_N[rows], tests.entry_N[rows]
    overlap_N, p_N = table.overlaps[entry_N], table.p_E[entry_N]
    n_N, K_N = study.lists.sizes[list_N], terms.sizes[term_N]
    sizes = effects(overlap_N, n_N, K_N, table.population)
    n_selected, n_lists = int(reported.selected_F.sum()), len(study.lists)
    enough_N = overlap_N >= study.min_overlap
    within_N = tests.within_N[rows]
    return pd.DataFrame(
        {
            "feature": study.lists.names_F[list_N],
            "source": terms.source,
            "rank": reported.rank_N[rows],
            "group": np.array(terms.group_T, object)[term_N],
            "term_id": np.array(terms.term_id_T, object)[term_N],
            "term": np.array(terms.name_T, object)[term_N],
            "overlap": overlap_N,
            "list_genes": n_N,
            "term_genes": K_N,
            "background": table.population,
            "p": p_N,
            "q": correction.q_E[entry_N],
            "q_by": correction.by_E[entry_N],
            "q_all": everything.q_E[entry_N],
            "q_all_by": everything.by_E[entry_N],
            "q_within": within_N,
            "significant": (p_N <= correction.limit) & enough_N,
            # Benjamini and Bogomolov: within selected lists, at the level times the share of lists selected.
            "discovery": reported.selected_F[list_N]
            & (within_N <= study.alpha * n_selected / max(n_lists, 1))
            & enough_N,
            "odds_ratio": sizes.odds,
            "odds_haldane": sizes.haldane,
            "odds_low": sizes.low,
            "odds_high": sizes.high,
            "fold": sizes.fold,
            "jaccard": sizes.jaccard,
            "null_share": share_N[rows],
            "genes": shared_genes(study, reported.source, list_N, term_N),
        }
    )


def _with_parents(
    study: Study,
    reported: Reported,
    known: tuple[Hierarchy, ParentChild] | None,
    table: pd.DataFrame,
    rows: slice,
) -> pd.DataFrame:
    if known is None:
        missing = np.full(len(table), np.nan)
        return table.assign(
            p_parent_child=missing, q_parent_child=missing, most_specific=table["significant"]
        )
    hierarchy, family = known
    list_N, term_N = reported.tests.list_N[rows], reported.tests.term_N[rows]
    p_N = parent_child_p(study.lists, study.sources[reported.source], hierarchy, list_N, term_N)
    significant_N = table["significant"].to_numpy(bool)
    return table.assign(
        p_parent_child=p_N,
        q_parent_child=family.rates(p_N),
        most_specific=most_specific(hierarchy, list_N, term_N, significant_N),
    )


def shared_genes(study: Study, source: int, list_N: Int64, term_N: Int64) -> list[str]:
    """Names of the genes each list shares with its term, in the order of the background."""
    member_TG = study.sources[source].member_GT.T.tocsr()
    shared = study.lists.member_FG[list_N].multiply(member_TG[term_N]).tocsr()
    shared.sort_indices()
    names = study.background.genes
    edges = shared.indptr.tolist()
    columns = shared.indices.tolist()
    return [
        GENE_SEPARATOR.join(names[column] for column in columns[start:end])
        for start, end in itertools.pairwise(edges)
    ]


FEATURE_COLUMNS = [
    "feature", "n_genes", "n_terms", "n_groups", "groups", "discoveries", "best_source", "best_term_id",
    "best_term", "best_p", "best_q", "best_odds", "best_null_share",
]  # fmt: skip


def feature_table(numbers: Int64, study: Study, terms: pd.DataFrame) -> pd.DataFrame:
    """One row per feature number, tested or not (then with 0 genes).

    n_terms counts significant terms; groups are the evidence groups they belong to. The best term has the
    smallest q, then the largest odds ratio; without a significant one it is the best that was found.
    """
    size = pd.Series(study.lists.sizes, index=study.lists.names_F)
    significant = terms[terms["significant"]]
    by_feature = significant.groupby("feature")
    groups = by_feature["group"].agg(lambda names: GENE_SEPARATOR.join(sorted(set(names))))
    order = np.lexsort(
        (-terms["odds_haldane"], terms["p"], terms["q"], ~terms["significant"], terms["feature"])
    )
    best = terms.iloc[order].drop_duplicates("feature").set_index("feature")
    table = pd.DataFrame({"feature": numbers})
    feature = table["feature"]
    table["n_genes"] = feature.map(size).fillna(0).astype(np.int64)
    table["n_terms"] = feature.map(by_feature.size()).fillna(0).astype(np.int64)
    table["groups"] = feature.map(groups).fillna("").astype(object)
    table["n_groups"] = [len(set(filter(None, text.split(GENE_SEPARATOR)))) for text in table["groups"]]
    table["discoveries"] = feature.map(terms.groupby("feature")["discovery"].sum()).fillna(0).astype(np.int64)
    for name in ("source", "term_id", "term"):
        table[f"best_{name}"] = feature.map(best[name]).fillna("").astype(object)
    for name, column in {"p": "p", "q": "q", "odds": "odds_haldane", "null_share": "null_share"}.items():
        table[f"best_{name}"] = feature.map(best[column]).astype(np.float64)
    return table[FEATURE_COLUMNS]
