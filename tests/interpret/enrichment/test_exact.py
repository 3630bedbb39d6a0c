"""The table-and-product method against golden numbers made one test at a time."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from engine.interpret.databases.gmt import gene_sets, read_gmt
from engine.interpret.enrichment.effects import effects
from engine.interpret.enrichment.exact import KeptTests, Scan, scan
from engine.interpret.enrichment.lists import Background, GeneLists, TermSets
from engine.interpret.enrichment.tails import TailTable
from engine.interpret.statistics import benjamini_hochberg, benjamini_yekutieli

BACKGROUNDS = ("model_vocab", "protein_coding")
SOURCES = ("hallmark_v7.0", "reactome_official_part1")


class Golden:
    """Golden lists and terms on one background, all tests kept."""

    def __init__(self, folder: Path, name: str) -> None:
        background = Background.of((folder / f"background_{name}.txt").read_text().split("\n"))
        rows = [line.split("\t") for line in (folder / "query_lists.gmt").read_text().splitlines()]
        self.names = [row[0] for row in rows]
        self.lists = GeneLists.of(background, range(len(rows)), [row[2:] for row in rows])
        self.background = background
        self.terms = {source: self._terms(folder / f"{source}.gmt", source) for source in SOURCES}
        sizes = np.concatenate([terms.sizes for terms in self.terms.values()])
        self.table = TailTable.of(self.lists.sizes, sizes, len(background))
        self.scans = {
            source: scan(self.lists, terms, self.table, keep_p=1.0) for source, terms in self.terms.items()
        }
        self.expected = pd.read_csv(folder / f"expected_{name}.tsv", sep="\t", keep_default_na=True)

    def _terms(self, path: Path, source: str) -> TermSets:
        """Terms by their line in the file, as the golden tables name them: Reactome's names repeat."""
        terms, associations = read_gmt(path)
        row = {term_id: str(place) for place, term_id in enumerate(terms["term_id"])}
        return TermSets.of(
            self.background,
            source,
            terms.assign(term_id=terms["term_id"].map(row)),
            associations.assign(term_id=associations["term_id"].map(row)),
        )

    def found(self) -> pd.DataFrame:
        """Our columns beside the golden ones; tests without a shared gene have k = 0 and rates of 1."""
        pooled = sum(one.count_E for one in self.scans.values())
        q_all = benjamini_hochberg(self.table.p_E, pooled)
        parts = []
        for source, one in self.scans.items():
            kept, q_E = one.kept, benjamini_hochberg(self.table.p_E, one.count_E)
            assert kept is not None
            entry = kept.entry_N
            parts.append(
                pd.DataFrame(
                    {
                        "list": np.array(self.names, object)[kept.list_N],
                        "database": source,
                        "term_row": np.array(self.terms[source].term_id_T).astype(int)[kept.term_N],
                        "our_k": self.table.overlaps[entry],
                        "our_p_greater": self.table.p_E[entry],
                        "our_q_bh_list_db": kept.within_N,
                        "our_q_bh_db": q_E[entry],
                        "our_q_by_db": benjamini_yekutieli(q_E, int(one.count_E.sum()))[entry],
                        "our_q_bh_all": q_all[entry],
                        "our_q_by_all": benjamini_yekutieli(q_all, int(pooled.sum()))[entry],
                    }
                )
            )
        both = self.expected.merge(pd.concat(parts), on=["list", "database", "term_row"], how="left")
        ours = [name for name in both if name.startswith("our_")]
        return both.fillna({name: 0 if name == "our_k" else 1.0 for name in ours})


@cache
def golden_of(folder: Path, name: str) -> Golden:
    return Golden(folder, name)


@pytest.fixture(params=BACKGROUNDS)
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    return golden_of(shared / "golden" / "enrichment", request.param)


def test_counts_and_probabilities_are_the_golden_ones(golden: Golden) -> None:
    both = golden.found()
    assert len(both) == sum(one.count_E.sum() for one in golden.scans.values())
    assert both["our_k"].tolist() == both["k"].tolist()
    for name in ("p_greater", "q_bh_list_db", "q_bh_db", "q_by_db", "q_bh_all", "q_by_all"):
        np.testing.assert_allclose(both[f"our_{name}"], both[name], rtol=1e-9, err_msg=name)


def test_rates_are_not_those_of_prefiltered_tests(golden: Golden) -> None:
    both = golden.found()
    tested = both[both["k"] >= 2]
    differs = ~np.isclose(tested["our_q_bh_db"], tested["q_WRONG_prefiltered"], rtol=1e-6)
    assert differs.mean() > 0.9
    assert (tested["our_q_bh_db"] <= 0.05).sum() < (tested["q_WRONG_prefiltered"] <= 0.05).sum()


def test_effects_are_the_golden_ones(golden: Golden) -> None:
    expected = golden.expected
    sizes = (expected[name].to_numpy(np.int64) for name in ("k", "n", "K"))
    found = effects(*sizes, len(golden.background))
    np.testing.assert_allclose(found.odds, expected["odds_ratio"], rtol=1e-9)
    np.testing.assert_allclose(found.haldane, expected["odds_haldane"], rtol=1e-9)
    np.testing.assert_allclose(found.expected, expected["expected_overlap"], rtol=1e-9)
    np.testing.assert_allclose(found.fold, expected["fold"].fillna(0.0), rtol=1e-9)
    assert (found.low < found.haldane).all()
    assert (found.haldane < found.high).all()


def test_any_cut_into_shards_gives_the_same(golden: Golden) -> None:
    whole, terms = golden.scans[SOURCES[1]], golden.terms[SOURCES[1]]
    cuts = [0, 1, 5, 6, len(golden.lists)]
    parts = [
        scan(golden.lists.part(start, stop), terms, golden.table, keep_p=1.0, first=start)
        for start, stop in itertools.pairwise(cuts)
    ]
    assert (sum(part.count_E for part in parts) == whole.count_E).all()
    for name in ("best_F", "simes_F"):
        assert (np.concatenate([getattr(part, name) for part in parts]) == getattr(whole, name)).all()
    kept = KeptTests.joined([part.kept for part in parts if part.kept is not None])
    assert whole.kept is not None
    for name in KeptTests.__dataclass_fields__:
        assert (getattr(kept, name) == getattr(whole.kept, name)).all(), name


def test_keeping_only_small_p_changes_no_rate(golden: Golden) -> None:
    """Tests that are not kept still count, in the list's own family and in Simes' p."""
    terms = golden.terms[SOURCES[1]]
    few: Scan = scan(golden.lists, terms, golden.table, keep_p=0.01)
    every = golden.scans[SOURCES[1]]
    assert few.kept is not None
    assert every.kept is not None
    small = golden.table.p_E[every.kept.entry_N] <= 0.01
    assert (few.kept.term_N == every.kept.term_N[small]).all()
    np.testing.assert_array_equal(few.kept.within_N, every.kept.within_N[small])
    np.testing.assert_array_equal(few.simes_F, every.simes_F)
    assert (few.count_E == every.count_E).all()


def test_lists_that_share_no_gene_with_any_term() -> None:
    """As a few neurons and a small source: nothing to sort, and every test counts."""
    background = Background.of("abcdefgh")
    lists = GeneLists.of(background, [0, 1], ["abc", "bcd"])
    names = pd.DataFrame({"term_id": ["T"], "name": ["t"], "group": ["pathway"]})
    genes = pd.DataFrame({"gene": list("fgh"), "term_id": "T"})
    terms = TermSets.of(background, "S", names, genes, smallest=1)
    table = TailTable.of(lists.sizes, terms.sizes, len(background))
    found = scan(lists, terms, table, keep_p=0.05)
    assert found.count_E.sum() == 2
    assert found.simes_F.tolist() == [1.0, 1.0]
    assert found.kept is not None
    assert len(found.kept.list_N) == 0


def test_tails_of_all_sizes_agree_with_scipy() -> None:
    population = 60
    sizes = np.arange(population + 1)
    table = TailTable.of(sizes, sizes, population)
    starts = table.start_UV.ravel()
    n, K = (
        np.repeat(grid.ravel(), np.diff(np.append(starts, table.p_E.size)))
        for grid in np.meshgrid(sizes, sizes, indexing="ij")
    )
    expected = stats.hypergeom.sf(table.overlaps - 1, population, K, n)
    np.testing.assert_allclose(table.p_E, np.minimum(expected, 1.0), rtol=1e-11, atol=1e-300)
    with pytest.raises(ValueError, match="population"):
        TailTable.of(sizes, np.array([61]), population)


def test_counts_correct_as_the_tests_they_stand_for() -> None:
    rng = np.random.default_rng(0)
    p, count = np.sort(rng.random(50)) ** 3, rng.integers(0, 5, 50)
    each = benjamini_hochberg(np.repeat(p, count))
    by_count = np.repeat(benjamini_hochberg(p, count), count)
    np.testing.assert_allclose(by_count, each, rtol=1e-12)


def test_lists_keep_exact_names_once(shared: Path) -> None:
    folder = shared / "golden" / "enrichment"
    background = Background.of(["TP53", "BRCA1", "MYC", "", "TP53"])
    assert len(background) == 3
    lists = GeneLists.of(background, [7, 8], [["TP53", "TP53", "brca1", "", "MYC"], []])
    assert lists.sizes.tolist() == [2, 0]
    assert lists.names_F.tolist() == [7, 8]
    assert sum(1 for _ in gene_sets(folder / "hallmark_v7.0.gmt")) == 50
