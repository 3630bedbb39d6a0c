"""Parent-child tests on the phenotype ontology against golden numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest

from engine.interpret.databases.ontologies import read_obo
from engine.interpret.enrichment.hierarchy import (
    ABNORMALITY,
    Hierarchy,
    closure,
    most_specific,
    parent_child,
    parent_child_p,
    parent_matrix,
)
from engine.interpret.enrichment.lists import Background, GeneLists, TermSets
from engine.interpret.statistics import benjamini_hochberg


@pytest.fixture(scope="module")
def phenotypes(shared: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Terms below ABNORMALITY and their genes, propagated."""
    folder = shared / "golden" / "validation_db" / "hpo"
    ontology = read_obo(folder / "hp.subset.obo", prefix="HP:")
    inside = [term for term in ontology.names if ABNORMALITY in ontology.above(term)]
    known = set(inside)
    terms = pd.DataFrame({"term_id": inside, "name": [ontology.names[term] for term in inside]})
    terms["parents"] = [[parent for parent in ontology.parents[term] if parent in known] for term in inside]
    terms["group"] = "phenotype"
    lines = (folder / "genes_to_phenotype.legacy9col.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    direct = [(row[1], ontology.resolve(row[2])) for row in rows]
    pairs = {
        (gene, above)
        for gene, term in direct
        if term in known
        for above in ontology.above(term)
        if above in known
    }
    return terms, pd.DataFrame(sorted(pairs), columns=["gene", "term_id"])


class Case:
    def __init__(
        self,
        shared: Path,
        phenotypes: tuple[pd.DataFrame, pd.DataFrame],
        how: Literal["union", "intersection"],
    ) -> None:
        folder = shared / "golden" / "enrichment"
        self.golden = pd.read_csv(folder / "hpo_hierarchical_expected.tsv", sep="\t")
        background = Background.of((folder / "hpo_background.txt").read_text().split())
        rows = [line.split("\t") for line in (folder / "hpo_query_lists.gmt").read_text().splitlines()]
        self.names = [row[0] for row in rows]
        self.lists = GeneLists.of(background, range(len(rows)), [row[2:] for row in rows])
        self.terms = TermSets.of(background, "hpo", *phenotypes, smallest=1, largest=1000)
        found = Hierarchy.of(
            background, self.terms, *phenotypes, how="union" if how == "union" else "intersection"
        )
        assert found is not None
        self.hierarchy = found
        self.list_N = self.golden["list"].map(self.names.index).to_numpy(np.int64)
        place = {term: number for number, term in enumerate(self.terms.term_id_T)}
        self.term_N = self.golden["term"].map(place).to_numpy(np.int64)


@pytest.mark.parametrize("how", ["union", "intersection"])
def test_probabilities_are_the_golden_ones(
    shared: Path, phenotypes: tuple[pd.DataFrame, pd.DataFrame], how: Literal["union", "intersection"]
) -> None:
    case = Case(shared, phenotypes, how)
    golden = case.golden
    assert len(case.terms) == golden["term"].nunique()
    found = parent_child_p(case.lists, case.terms, case.hierarchy, case.list_N, case.term_N)
    np.testing.assert_allclose(found, golden[f"p_parent_child_{how}"], rtol=1e-9)
    universe = np.bincount(case.hierarchy.universe_GT.indices, minlength=len(case.terms))
    assert universe[case.term_N].tolist() == golden[f"n_parents_{how}"].tolist()


def test_rates_count_every_test(shared: Path, phenotypes: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    case = Case(shared, phenotypes, "union")
    golden = case.golden
    for number, name in enumerate(case.names):
        rows = np.flatnonzero(golden["list"] == name)
        family = parent_child(case.lists.part(number, number + 1), case.terms, case.hierarchy)
        p = parent_child_p(case.lists, case.terms, case.hierarchy, case.list_N[rows], case.term_N[rows])
        np.testing.assert_allclose(family.rates(p), golden["q_bh_parent_child_union"].iloc[rows], rtol=1e-9)
    every = parent_child(case.lists, case.terms, case.hierarchy)
    p = parent_child_p(case.lists, case.terms, case.hierarchy, case.list_N, case.term_N)
    assert every.count.sum() == len(golden)
    np.testing.assert_allclose(every.rates(p), benjamini_hochberg(p), rtol=1e-12)


def test_terms_explained_by_narrower_ones_are_told() -> None:
    terms = pd.DataFrame(
        {"term_id": list("abcd"), "name": list("abcd"), "parents": [[], ["a"], ["b"], ["a"]]}
    )
    above = closure(parent_matrix(terms))
    assert above.toarray().tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    hierarchy = Hierarchy(above, above, ("",) * 4)
    list_N, term_N = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 1])
    significant = np.array([True, True, True, True, False])
    found = most_specific(hierarchy, list_N, term_N, significant)
    assert found.tolist() == [False, False, True, True, False]


def test_organ_systems_are_named(shared: Path, phenotypes: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    case = Case(shared, phenotypes, "union")
    system = dict(zip(case.terms.term_id_T, case.hierarchy.systems_T, strict=True))
    assert system["HP:0000479"] == "Abnormality of the eye"
    assert system[ABNORMALITY] == ""
