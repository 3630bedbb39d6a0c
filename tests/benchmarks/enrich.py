"""Enrichment of all features against all terms: ours, scipy test by test, and gseapy list by list."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from engine.interpret.enrichment.lists import Background, GeneLists, TermSets, memberships
from engine.interpret.enrichment.rates import Chance, corrections_of
from engine.interpret.enrichment.study import Correction, Study, joined, observe, shuffle
from engine.interpret.statistics import benjamini_hochberg
from tests.benchmarks.cpu_time import cpu_seconds
from tests.benchmarks.report import Figure, main

ABOUT = """One-sided Fisher tests of 16,384 features' gene lists (100 genes) against 20,000 terms (5 to 500
genes, annotated as unevenly as real genes are) out of 20,000 genes: 328 million tests, with false discovery
rates over all of them, Simes' p of each list and the rate within each list. Ours: the table of all p values,
sparse products, rates from counts. Theirs does the same test by test on some lists: sets intersected in
Python and scipy.stats.fisher_exact, as sae-genomics does; and gseapy.enrich with the same background, list by
list. CPU-seconds of one thread, best of three, taking turns. Calibration: of uniformly random lists, the
share with any significant term, beside the share that leaving out tests with fewer than two shared genes
before the correction gives (theirs); of lists drawn in proportion to annotation, the significant pairs that
gene labels shuffled within strata give over the significant pairs found, beside labels shuffled freely
(theirs)."""

GENES, LISTED, ALPHA = 20_000, 100, 0.05


class Case(NamedTuple):
    """Lists and terms; `weight_G` is how likely a gene is to be annotated."""

    study: Study
    weight_G: np.ndarray

    @property
    def n_tests(self) -> int:
        return self.study.n_tests


def case(n_lists: int, n_terms: int, bias: float = 0.0, seed: int = 0) -> Case:
    """bias: lists are drawn in proportion to annotation to this power; 0 is uniform."""
    rng = np.random.default_rng(seed)
    weight_G = rng.lognormal(0, 1.0, GENES)
    background = Background.of([f"gene{gene}" for gene in range(GENES)], rng.random(GENES))
    sizes = np.clip(rng.lognormal(3.6, 1.0, n_terms).astype(int), 5, 500)
    cumulative = np.cumsum(weight_G) / weight_G.sum()
    term_P = np.repeat(np.arange(n_terms), sizes)
    gene_P = np.minimum(np.searchsorted(cumulative, rng.random(term_P.size)), GENES - 1)
    member_TG = memberships(term_P, gene_P, (n_terms, GENES))
    names = tuple(f"term{term}" for term in range(n_terms))
    terms = TermSets("terms", names, names, ("pathway",) * n_terms, member_TG.T.tocsr())
    drawn_G = weight_G**bias / (weight_G**bias).sum()
    lists = np.concatenate([rng.choice(GENES, LISTED, replace=False, p=drawn_G) for _ in range(n_lists)])
    rows = np.repeat(np.arange(n_lists), LISTED)
    member_FG = memberships(rows, lists, (n_lists, GENES))
    return Case(
        Study.of(background, GeneLists(np.arange(n_lists), member_FG), [terms], alpha=ALPHA), weight_G
    )


def ours(given: Case) -> Correction:
    """Everything from lists and terms to rates; the table of p values is made anew."""
    study = Study.of(given.study.background, given.study.lists, given.study.sources, alpha=ALPHA)
    scans = joined([observe(study, first, stop) for first, stop in study.shards()])
    for one in scans:
        benjamini_hochberg(one.simes_F)
    return corrections_of(study, scans)[0]


def named(given: Case, n_lists: int, n_terms: int) -> tuple[list[set[str]], dict[str, set[str]]]:
    """Lists and terms as sets of names."""
    study = given.study
    genes = np.array(study.background.genes, object)
    member, terms = study.lists.member_FG, study.sources[0].member_GT.T.tocsr()
    lists = [set(genes[member[row].indices]) for row in range(n_lists)]
    return lists, {f"term{row}": set(genes[terms[row].indices]) for row in range(n_terms)}


def with_scipy(lists: list[set[str]], terms: dict[str, set[str]]) -> np.ndarray:
    """p of each list and term, one test after the other, then rates over all."""
    p = []
    for genes in lists:
        for members in terms.values():
            a = len(genes & members)
            b, c = len(genes) - a, len(members) - a
            p.append(stats.fisher_exact([[a, b], [c, GENES - a - b - c]], alternative="greater")[1])
    benjamini_hochberg(np.array(p))
    return np.array(p).reshape(len(lists), len(terms))


def with_gseapy(
    lists: list[set[str]], terms: dict[str, set[str]], background: list[str]
) -> list[pd.DataFrame]:
    import gseapy  # type: ignore[import-untyped]

    sets = {name: sorted(members) for name, members in terms.items()}
    return [
        gseapy.enrich(gene_list=sorted(genes), gene_sets=sets, background=background, outdir=None).results
        for genes in lists
    ]


def largest_difference(given: Case, p_LT: np.ndarray) -> float:
    """Of our p values from scipy's, relative."""
    study = given.study
    part = study.lists.part(0, p_LT.shape[0])
    overlap_LT = (part.member_FG @ study.sources[0].member_GT).toarray()[:, : p_LT.shape[1]]
    u_L, v_T = study.table.classes(part.sizes, study.sources[0].sizes)
    ours_LT = study.table.p_E[study.table.start_UV[u_L[:, None], v_T[None, : p_LT.shape[1]]] + overlap_LT]
    return float((np.abs(ours_LT - p_LT) / p_LT).max())


def calibration(n_lists: int, n_terms: int) -> list[Figure]:
    """Random lists: how many find anything, corrected rightly and with tests left out first."""
    study = case(n_lists, n_terms, seed=1).study
    (one,) = joined([observe(study, 0, n_lists)])
    (fixed,) = corrections_of(study, [one])
    every = (study.lists.member_FG @ study.sources[0].member_GT).tocsr()
    u_L, v_T = study.table.classes(study.lists.sizes, study.sources[0].sizes)
    prefiltered = 0
    for row in range(n_lists):
        shared = every[row]
        enough = shared.data >= 2
        entry = study.table.start_UV[u_L[row], v_T[shared.indices[enough]]] + shared.data[enough]
        prefiltered += bool((benjamini_hochberg(study.table.p_E[entry]) <= ALPHA).any())
    any_term = float((one.best_F <= fixed.limit).mean())
    within = float((one.simes_F <= ALPHA).mean())
    about = "BH after leaving out tests with fewer than two shared genes, share of lists"
    return [
        Figure.cost(name, share, prefiltered / n_lists, "of lists", about, ALPHA)
        for name, share in (
            ("random lists with a significant term, all lists one family", any_term),
            ("random lists with a significant term, each list its own family", within),
        )
    ]


def bias_figure(n_lists: int, n_terms: int, permutations: int) -> Figure:
    study = case(n_lists, n_terms, bias=1.0, seed=2).study
    scans = joined([observe(study, 0, n_lists)])
    corrections = corrections_of(study, scans)
    observed = corrections[0].found(study, scans[0].count_E)
    ratios = []
    for stratum_G in (study.stratum_G, np.zeros_like(study.stratum_G)):
        chance = Chance(study, corrections)
        for number in range(permutations):
            chance.add(shuffle(replace(study, stratum_G=stratum_G), number))
        ratios.append(float(np.mean([row[0] for row in chance.pairs])) / max(observed, 1))
    return Figure(
        name=f"annotation-biased lists ({observed:,} significant pairs): found in shuffled labels",
        value=ratios[0],
        unit="of those found",
        target=0.5,
        better="higher",
        ours=ratios[0],
        theirs=ratios[1],
        theirs_is="labels shuffled freely, of those found",
    )


def measure(scratch: Path, smoke: bool) -> list[Figure]:
    n_lists, n_terms, repeats = (512, 2_000, 1) if smoke else (16_384, 20_000, 3)
    given = case(n_lists, n_terms)
    lists, terms = named(given, 1 if smoke else 2, min(n_terms, 500 if smoke else 2_000))
    every_list, every_term = named(given, 1 if smoke else 3, n_terms)
    background = list(given.study.background.genes)
    spent = {"ours": np.inf, "scipy": np.inf, "gseapy": np.inf, "shuffle": np.inf}
    works: dict[str, Callable[[], object]] = {
        "ours": lambda: ours(given),
        "scipy": lambda: with_scipy(lists, terms),
        "gseapy": lambda: with_gseapy(every_list, every_term, background),
        "shuffle": lambda: shuffle(given.study, 0),
    }
    for _ in range(repeats):
        for name, work in works.items():
            spent[name] = min(spent[name], cpu_seconds(work))
    rate = given.n_tests / spent["ours"]
    rates = {
        "scipy": len(lists) * len(terms) / spent["scipy"],
        "gseapy": len(every_list) * len(every_term) / spent["gseapy"],
    }
    count = f"{given.n_tests:,} tests"
    return [
        Figure.error(f"CPU-seconds of {count} with all rates", spent["ours"], "s", 10.0),
        Figure.error(f"CPU-seconds of one shuffle of {count}", spent["shuffle"], "s", None),
        Figure.ratio(
            "tests per CPU-second", rate, rates["scipy"], "scipy.stats.fisher_exact, tests/CPU-s", 500.0
        ),
        Figure.ratio("tests per CPU-second", rate, rates["gseapy"], "gseapy.enrich, tests/CPU-s", 500.0),
        Figure.error(
            "largest relative difference of a p value",
            largest_difference(given, with_scipy(lists, terms)),
            "",
            1e-9,
            "scipy.stats.fisher_exact",
        ),
        *calibration(200 if smoke else 2_000, 1_000 if smoke else 5_000),
        bias_figure(100 if smoke else 1_000, 1_000 if smoke else 5_000, 2 if smoke else 5),
    ]


if __name__ == "__main__":
    raise SystemExit(main("enrich", ABOUT, measure))
