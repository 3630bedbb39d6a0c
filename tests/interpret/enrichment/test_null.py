"""Shuffles of gene labels, and what they say about lists that mean nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from engine.interpret.enrichment.lists import Background, GeneLists, TermSets
from engine.interpret.enrichment.null import shuffled, strata
from engine.interpret.enrichment.rates import Chance, corrections_of, rate_table
from engine.interpret.enrichment.study import Study, joined, observe, shuffle

GENES, TERMS, LISTS = 2000, 300, 200


def test_strata_hold_like_genes() -> None:
    rng = np.random.default_rng(0)
    degree, level = rng.poisson(20, GENES), rng.random(GENES)
    stratum = strata(degree, level)
    sizes = np.bincount(stratum)
    assert 60 <= sizes.size <= GENES // 10
    assert sizes.min() >= 10
    table = pd.DataFrame({"stratum": stratum, "degree": degree, "level": level})
    within = table.groupby("stratum").std().mean()
    assert within["degree"] < 0.25 * degree.std()
    assert within["level"] < 0.6 * level.std()


def test_small_backgrounds_have_few_strata() -> None:
    assert strata(np.arange(15), np.zeros(15)).max() == 0
    assert np.bincount(strata(np.arange(100), np.full(100, np.nan))).min() >= 10


def test_shuffles_stay_in_their_stratum_and_differ() -> None:
    stratum = np.random.default_rng(0).integers(0, 7, 500)
    one, other = shuffled(stratum, 3, 0), shuffled(stratum, 3, 1)
    for order in (one, other):
        assert sorted(order.tolist()) == list(range(500))
        assert (stratum[order] == stratum).all()
    assert (one != other).mean() > 0.5
    assert (one == shuffled(stratum, 3, 0)).all()


def biased_study(bias: float) -> Study:
    """Random lists drawn by annotation degree to the power `bias`; terms of co-annotated genes."""
    rng = np.random.default_rng(5)
    weight = rng.lognormal(0, 1.2, GENES)
    background = Background.of([f"g{gene}" for gene in range(GENES)], rng.random(GENES))
    sets = [rng.choice(GENES, 60, replace=False, p=weight / weight.sum()) for _ in range(TERMS)]
    pairs = pd.DataFrame(
        [(f"g{gene}", f"t{place}") for place, genes in enumerate(sets) for gene in genes],
        columns=["gene", "term_id"],
    )
    names = [f"t{place}" for place in range(TERMS)]
    terms = pd.DataFrame({"term_id": names, "name": names, "group": "pathway"})
    drawn = weight**bias / (weight**bias).sum()
    lists = [[f"g{gene}" for gene in rng.choice(GENES, 50, replace=False, p=drawn)] for _ in range(LISTS)]
    sources = [TermSets.of(background, "s", terms, pairs)]
    return Study.of(background, GeneLists.of(background, range(LISTS), lists), sources)


def rates_of(study: Study, permutations: int) -> pd.Series:
    scans = joined([observe(study, 0, 120), observe(study, 120, LISTS)])
    corrections = corrections_of(study, scans)
    chance = Chance(study, corrections)
    for number in range(permutations):
        chance.add(shuffle(study, number))
    return rate_table("features", study, scans, corrections, chance).iloc[-1]


def test_random_lists_find_nothing() -> None:
    rates = rates_of(biased_study(0.0), 0)
    assert rates["features_with_term"] / LISTS <= 0.05
    assert np.isnan(rates["null_ratio"])


def test_annotation_biased_lists_are_given_away_by_the_null() -> None:
    """They find hundreds of terms, and so do shuffled labels."""
    rates = rates_of(biased_study(1.0), 3)
    assert rates["significant"] > 200
    assert rates["null_ratio"] > 0.5
