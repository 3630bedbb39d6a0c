"""What is about all features at once: the terms tested, the background, the figures of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from engine.interpret.enrichment.hierarchy import Hierarchy, ParentChild
from engine.interpret.enrichment.inputs import FeatureGenes
from engine.interpret.enrichment.rates import ALL_SOURCES
from engine.interpret.enrichment.study import Study

SUBJECT = "features"
"""Name of the features themselves among the subjects of the table of rates."""


def catalogue(study: Study, hierarchies: Sequence[tuple[Hierarchy, ParentChild] | None]) -> pd.DataFrame:
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "source": terms.source,
                    "term_id": terms.term_id_T,
                    "name": terms.name_T,
                    "group": terms.group_T,
                    "n_genes": terms.sizes,
                    "systems": known[0].systems_T if known else [""] * len(terms),
                }
            )
            for terms, known in zip(study.sources, hierarchies, strict=True)
        ],
        ignore_index=True,
    )


def ancestry(study: Study, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """source, term_id, name, parents: the terms tested and all above them, of sources that have a hierarchy.

    tables: `terms` of each source.
    """
    rows = [
        (terms.source, term, *known)
        for terms in study.sources
        for term, known in _above(set(terms.term_id_T), tables[terms.source]).items()
    ]
    return pd.DataFrame(rows, columns=["source", "term_id", "name", "parents"])


def _above(tested: set[str], table: pd.DataFrame) -> dict[str, tuple[str, list[str]]]:
    """term -> name and parents, of these terms and all above them; nothing where no term has a parent."""
    if "parents" not in table or not any(len(parents) for parents in table["parents"]):
        return {}
    known = {
        term: (name, parents)
        for term, name, parents in zip(table["term_id"], table["name"], table["parents"], strict=True)
    }
    found: dict[str, tuple[str, list[str]]] = {}
    waiting = sorted(tested & known.keys())
    while waiting:
        term = waiting.pop()
        if term not in found:
            name, parents = known[term]
            found[term] = (name, [parent for parent in parents if parent in known and parent != term])
            waiting += found[term][1]
    return dict(sorted(found.items()))


def background_table(study: Study) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "gene": study.background.genes,
            "mean_expression": study.background.expression_G,
            "terms": sum(np.diff(terms.member_GT.indptr) for terms in study.sources),
            "stratum": study.stratum_G,
        }
    )


def facts_of(
    subject: FeatureGenes,
    study: Study,
    rates: pd.DataFrame,
    described: pd.DataFrame,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What all of it comes to; JSON values."""
    overall = rates[(rates["subject"] == SUBJECT) & (rates["source"] == ALL_SOURCES)].iloc[0]
    return {
        "n_features": sum(stop - first for first, stop in subject.ranges.values()),
        "n_features_tested": len(study.lists),
        "n_tests": study.n_tests,
        "n_significant": int(overall["significant"]),
        "n_background": len(study.background),
        "n_strata": int(study.stratum_G.max(initial=-1)) + 1,
        "gene_key": subject.key,
        "sources": {terms.source: len(terms) for terms in study.sources},
        "features_with_term": int(overall["features_with_term"]),
        "features_by_groups": {
            str(groups): int(count)
            for groups, count in described["n_groups"].value_counts().sort_index().items()
        },
        "null_ratio": _number(overall["null_ratio"]),
        "null_features_ratio": _number(overall["null_features_ratio"]),
        "options": dict(options),
    }


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
