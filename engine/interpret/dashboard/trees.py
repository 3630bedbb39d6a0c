"""The significant terms of a feature inside their hierarchy, as rows of an indented tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from engine.interpret.dashboard.numbers import rounded

TERMS_IN_TREE = 16
"""Significant terms of one source; with all above them a tree is still to be taken in at a glance."""

Hierarchy = dict[str, tuple[str, tuple[str, ...]]]
"""term -> (name, parents)."""
Tested = Mapping[str, tuple[float | None, bool, int, int]]
"""term -> (q, significant, genes shared, genes of the term)."""


def hierarchies_of(table: pd.DataFrame) -> dict[str, Hierarchy]:
    """By source, of the enrichment's `hierarchy`."""
    found: dict[str, Hierarchy] = {}
    rows = zip(*(table[name].tolist() for name in ("source", "term_id", "name", "parents")), strict=True)
    for source, term, name, parents in rows:
        found.setdefault(source, {})[term] = (name, tuple(parents))
    return found


def trees(terms: pd.DataFrame, hierarchies: Mapping[str, Hierarchy]) -> dict[int, list[list[Any]]]:
    """feature -> [source, rows] of each source in whose hierarchy the feature has significant terms.

    terms: rows of the enrichment's `terms`. A row is [depth, id, name, q or None, significant, genes shared,
    genes of the term, names of further parents]: a term with several parents stands once, under the one
    farthest from the root.
    """
    known = terms[terms["source"].isin(list(hierarchies))]
    found: dict[int, list[list[Any]]] = {}
    for (feature, source), rows in known.groupby(["feature", "source"], sort=True):
        significant = rows[rows["significant"]]
        order = np.lexsort((significant["p"], significant["q"]))
        chosen = significant["term_id"].iloc[order[:TERMS_IN_TREE]].tolist()
        columns = (rows[name].tolist() for name in ("significant", "overlap", "term_genes"))
        tested = zip(rows["term_id"], zip(rounded(rows["q"], 3), *columns, strict=True), strict=True)
        tree = _rows(chosen, hierarchies[str(source)], dict(tested))
        if any(row[0] for row in tree):
            found.setdefault(int(str(feature)), []).append([str(source), tree])
    return found


def _rows(chosen: list[str], hierarchy: Hierarchy, tested: Tested) -> list[list[Any]]:
    depth = _depths(chosen, hierarchy)
    parents = {term: _higher(hierarchy[term][1], depth, depth[term]) for term in depth}
    under: dict[str, set[str]] = {}
    roots = set()
    for term in chosen:
        while parents[term]:
            under.setdefault(parents[term][0], set()).add(term)
            term = parents[term][0]
        roots.add(term)

    def by_name(terms: set[str]) -> list[str]:
        return sorted(terms, key=lambda one: (hierarchy[one][0], one))

    rows: list[list[Any]] = []
    waiting = [(term, 0) for term in reversed(by_name(roots))]
    while waiting:
        term, level = waiting.pop()
        further = [hierarchy[one][0] for one in parents[term][1:]]
        rows.append(
            [level, term, hierarchy[term][0] or term, *tested.get(term, (None, False, None, None)), further]
        )
        waiting += [(child, level + 1) for child in reversed(by_name(under.get(term, set())))]
    return rows


def _higher(parents: Sequence[str], depth: Mapping[str, int], below: int) -> list[str]:
    """Parents, the farthest from the root first; only those nearer to it than the term, or going up a circle
    would not end."""
    return sorted((one for one in parents if depth[one] < below), key=lambda one: (-depth[one], one))


def _depths(chosen: list[str], hierarchy: Hierarchy) -> dict[str, int]:
    """Longest way from a root, of these terms and all above them."""
    depth: dict[str, int] = {}
    entered: set[str] = set()
    waiting = list(chosen)
    while waiting:
        term = waiting[-1]
        parents = hierarchy[term][1]
        if term not in entered:
            entered.add(term)
            # One that is entered and has no depth yet lies below: a circle, which no tree can show.
            waiting += [parent for parent in parents if parent not in entered]
        else:
            depth[waiting.pop()] = 1 + max((depth.get(parent, -1) for parent in parents), default=-1)
    return depth
