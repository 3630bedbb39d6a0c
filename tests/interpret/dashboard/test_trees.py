"""Terms inside their hierarchy: each once, under the parent farthest from the root, and nothing besides."""

from __future__ import annotations

from typing import Any

import pandas as pd

from engine.interpret.dashboard.trees import hierarchies_of, trees

PARENTS: dict[str, list[str]] = {
    "root": [],
    "a": ["root"],
    "b": ["root"],
    "c": ["a", "b"],
    "d": ["c", "root"],
}


def drawn(parents: dict[str, list[str]], found: dict[str, bool]) -> list[Any]:
    """Trees of feature 7 whose tested terms (term -> significant) are `found`."""
    rows = [("hpo", term, f"name of {term}", above) for term, above in parents.items()]
    hierarchy = pd.DataFrame(rows, columns=["source", "term_id", "name", "parents"])
    terms = pd.DataFrame(
        [("hpo", term, 0.01, 0.02, hit, 3, 40) for term, hit in found.items()],
        columns=["source", "term_id", "p", "q", "significant", "overlap", "term_genes"],
    )
    return trees(terms.assign(feature=7), hierarchies_of(hierarchy)).get(7, [])


def test_a_term_stands_once_under_its_deepest_parent() -> None:
    ((source, rows),) = drawn(PARENTS, {"d": True, "c": False, "b": False})
    assert source == "hpo"
    # b is above c too, but nothing stands under it: it is named where c is.
    assert [(row[0], row[1]) for row in rows] == [(0, "root"), (1, "a"), (2, "c"), (3, "d")]
    assert rows[2][2:] == ["name of c", 0.02, False, 3, 40, ["name of b"]]
    assert rows[3][2:] == ["name of d", 0.02, True, 3, 40, ["name of root"]]
    assert rows[0][3:] == [None, False, None, None, []]


def test_nothing_significant_or_nothing_above_is_no_tree() -> None:
    assert drawn(PARENTS, {"d": False}) == []
    assert drawn(PARENTS, {"root": True}) == []
    assert drawn({"x": []}, {"x": True}) == []


def test_a_circle_ends() -> None:
    ((_, rows),) = drawn({"x": ["y"], "y": ["x", "z"], "z": []}, {"x": True})
    assert [row[1] for row in rows] == ["z", "y", "x"]
