"""The whole enrichment: open, test, shuffle, correct, label, write. Work is in shards whose results add up
exactly, so Ray or one process give the same bytes.

Shape legend: F lists, S sources.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from engine import ray_session
from engine.interpret.enrichment.exact import Scan
from engine.interpret.enrichment.hierarchy import Hierarchy, ParentChild, parent_child
from engine.interpret.enrichment.inputs import (
    FeatureGenes,
    GeneKey,
    Knowledge,
    licence_rows,
    open_features,
    term_sets,
)
from engine.interpret.enrichment.namer import Namer
from engine.interpret.enrichment.network import MIN_SCORE, Network, coherence, edge_table, empty_edges
from engine.interpret.enrichment.originals import as_json, summary, validations
from engine.interpret.enrichment.overall import SUBJECT, ancestry, background_table, catalogue, facts_of
from engine.interpret.enrichment.ranked import ranked_table
from engine.interpret.enrichment.rates import Chance, corrections_of, rate_table
from engine.interpret.enrichment.report import report_page
from engine.interpret.enrichment.rows import Reported, term_table
from engine.interpret.enrichment.study import (
    TESTS_IN_PROCESS,
    Correction,
    Study,
    in_turn,
    joined,
    observe,
    shuffle,
)
from engine.interpret.enrichment.summaries import describe_features
from storage.commits import Dataset, Snapshot
from storage.enrichment import (
    BACKGROUND,
    CATALOGUE,
    HIERARCHY,
    RANKED,
    RATES,
    REPORT,
    SOURCES,
    plan_enrichment,
    write_range,
)
from storage.features import FeatureTables
from storage.locations import Location
from storage.ranged_tables import parquet

# done, total, unit
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class EnrichmentOptions:
    """What decides the tables beside the inputs.

    top_genes: genes of a feature that are its list. listed: terms of each source kept for a feature even when
    they are not significant. largest_term: None for 500, and 1,000 for phenotypes and diseases, whose broad
    terms are large. permutations: 0 for none. min_score: of network edges. ranked: features also given to
    pre-ranked GSEA.
    """

    top_genes: int = 50
    alpha: float = 0.05
    min_overlap: int = 3
    smallest_term: int = 5
    largest_term: int | None = None
    listed: int = 10
    permutations: int = 20
    min_score: float = MIN_SCORE
    ranked: tuple[int, ...] = ()
    gene_key: GeneKey = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Enrichment:
    """What `enrich` did; `did_work` is False when everything was there."""

    snapshot: Snapshot
    report: dict[str, Any]
    did_work: bool
    seconds: float = 0.0


@dataclass(frozen=True)
class Tested:
    """One set of features, tested: everything tables are made from."""

    study: Study
    scans: list[Scan]
    corrections: list[Correction]
    reported: list[Reported]
    chance: Chance


def enrich(
    features: str,
    knowledge: Knowledge,
    options: EnrichmentOptions,
    output: Location,
    *,
    baselines: Sequence[str] = (),
    namer: Namer | None = None,
    address: str | None = None,
    use_ray: bool | None = None,
    overwrite: bool = False,
    report: Progress | None = None,
) -> Enrichment:
    """Test the features, and each baseline's, against all sources; write the tables to `output`.

    use_ray: None for Ray when there is enough to do. namer: a language model that names features instead
    of the template. Raises InputError for inputs that do not fit, and
    LineageMismatch when something else is at `output`.
    """
    started = time.monotonic()
    report = report or (lambda done, total, unit: None)
    subject = open_features(features, knowledge, options.top_genes, options.gene_key)
    opened = {path: open_features(path, knowledge, options.top_genes, options.gene_key) for path in baselines}
    sources = term_sets(knowledge, subject.background, options.smallest_term, options.largest_term)
    lineage = {
        "features": subject.dataset_id,
        **knowledge.identity,
        "baselines": [one.dataset_id for one in opened.values()],
        **asdict(options),
        "ranked": list(options.ranked),
        "namer": namer and asdict(namer),
    }
    dataset = plan_enrichment(output, lineage, subject.ranges, overwrite=overwrite)
    if dataset.is_complete:
        snapshot = dataset.finish()
        return Enrichment(snapshot, json.loads(snapshot.read(REPORT)), did_work=False)
    studies = {SUBJECT: _study(subject, sources, options)}
    for path, one in opened.items():
        of_baseline = term_sets(knowledge, one.background, options.smallest_term, options.largest_term)
        studies[path] = _study(one, of_baseline, options)
    n_tests = sum(study.n_tests for study in studies.values()) * (1 + options.permutations)
    on_ray = n_tests > TESTS_IN_PROCESS if use_ray is None else use_ray
    with ray_session.connect(address) if on_ray else nullcontext():
        tested = {name: _test(study, options, on_ray, report) for name, study in studies.items()}
    rates = pd.concat(
        [rate_table(name, one.study, one.scans, one.corrections, one.chance) for name, one in tested.items()],
        ignore_index=True,
    )
    snapshot, facts = _write(dataset, features, subject, tested[SUBJECT], rates, knowledge, options, namer)
    return Enrichment(snapshot, facts, True, time.monotonic() - started)


def _study(subject: FeatureGenes, sources: Sequence[Any], options: EnrichmentOptions) -> Study:
    return Study.of(
        subject.background,
        subject.lists,
        sources,
        alpha=options.alpha,
        min_overlap=options.min_overlap,
        seed=options.seed,
    )


def _test(study: Study, options: EnrichmentOptions, use_ray: bool, report: Progress) -> Tested:
    shards = study.shards()
    scans = joined(list(in_turn(observe, study, shards, use_ray)))
    corrections = corrections_of(study, scans)
    reported = [
        Reported.of(study, place, one, corrections[place], options.listed) for place, one in enumerate(scans)
    ]
    chance = Chance(study, corrections, [one.compared(study) for one in reported])
    draws = [(number,) for number in range(options.permutations)]
    for done, one in enumerate(in_turn(shuffle, study, draws, use_ray)):
        chance.add(one)
        report(done + 1, options.permutations, "permutations")
    return Tested(study, scans, corrections, reported, chance)


def _write(
    dataset: Dataset,
    features: str,
    subject: FeatureGenes,
    tested: Tested,
    rates: pd.DataFrame,
    knowledge: Knowledge,
    options: EnrichmentOptions,
    namer: Namer | None,
) -> tuple[Snapshot, dict[str, Any]]:
    tables, study = FeatureTables.open(features), tested.study
    everything = Correction.of(
        study.table, np.sum([one.count_E for one in tested.scans], axis=0), options.alpha
    )
    shares = [tested.chance.share(place) for place in range(len(tested.reported))]
    network = (
        None if knowledge.edges is None else Network.of(study.background, knowledge.edges, options.min_score)
    )
    coherent = None if network is None else coherence(study.lists, network, options.seed, options.alpha)
    hierarchies = _hierarchies(study, knowledge)
    entries: dict[str, Any] = {}
    annotated: list[pd.DataFrame] = []
    for key, (first, stop) in subject.ranges.items():
        lists = slice(*np.searchsorted(study.lists.names_F, [first, stop]).tolist())
        terms = term_table(
            study,
            tested.reported,
            tested.corrections,
            everything,
            shares,
            hierarchies,
            lists.start,
            lists.stop,
        )
        genes = {int(number): subject.ranked[number] for number in study.lists.names_F[lists].tolist()}
        facts_of_range = tables.table("features", [key])
        described = describe_features(facts_of_range, study, terms, genes, coherent, options.alpha, namer)
        inside = edge_table(study.lists, network, lists.start, lists.stop) if network else empty_edges()
        write_range(dataset, key, {"terms": terms, "features": described, "edges": inside})
        entries.update(validations(terms, genes))
        annotated.append(described)
    facts = facts_of(subject, study, rates, pd.concat(annotated, ignore_index=True), asdict(options))
    objects = {
        CATALOGUE: parquet(catalogue(study, hierarchies)),
        HIERARCHY: parquet(ancestry(study, {one.name: one.terms for one in knowledge.sources})),
        RATES: parquet(rates),
        BACKGROUND: parquet(background_table(study)),
        SOURCES: json.dumps(licence_rows(knowledge.licences), indent=2).encode(),
        REPORT: json.dumps(facts, indent=2, allow_nan=False).encode(),
        "report.md": report_page(facts, rates).encode(),
        "feature_validations.json": as_json(entries),
        "validation_summary.csv": summary(entries),
    }
    if options.ranked:
        ranked = ranked_table(study, tables, subject.key, options.ranked, options.seed)
        objects[RANKED] = parquet(ranked)
    counts = {name: facts[name] for name in ("n_features", "n_features_tested", "n_tests", "n_significant")}
    return dataset.finish(objects, counts), facts


def _hierarchies(study: Study, knowledge: Knowledge) -> list[tuple[Hierarchy, ParentChild] | None]:
    """Of each source tested, what its parent-child tests need; None for sources without a hierarchy."""
    tables = {one.name: one for one in knowledge.sources}
    found: list[tuple[Hierarchy, ParentChild] | None] = []
    for terms in study.sources:
        one = tables[terms.source]
        hierarchy = Hierarchy.of(study.background, terms, one.terms, one.associations)
        known = None if hierarchy is None else parent_child(study.lists, terms, hierarchy)
        found.append((hierarchy, known) if hierarchy and known else None)
    return found
