"""From activations to feature tables: observe, merge, tabulate; each step resumes where it was.

    members -> observe -> states committed under OUTPUT/states
    states -> merge, one tree of tasks a range of features -> tables of the range committed at OUTPUT
    all ranges -> JSON products, snapshot; the states are removed

States merge exactly, so neither the number of workers, nor the order in which they finish, nor the number of
ranges can show in a result. Only false discovery rates need all ranges at once: p values travel, tables do
not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from engine import ray_session
from engine.interpret import products, statistics
from engine.interpret.expression import Expression
from engine.interpret.gene_ranking import TableOptions
from engine.interpret.inputs import Subject
from engine.interpret.names import Names
from engine.interpret.passes import FeaturePass, Progress, Spent, planned_resolution
from engine.interpret.presence import SAMPLED_CELLS, Presence, share_for
from engine.interpret.reduction import RETRIES, Reduction
from engine.interpret.runs import Float64
from engine.interpret.state import (
    FeatureState,
    FeatureTotals,
    PassPlan,
    TokenTotals,
    exact_levels_for,
    resolution_for,
)
from engine.interpret.tables import (
    P_VALUES,
    label_table,
    tabulate,
    vocabulary_table,
    with_fdr,
)
from storage.commits import Dataset, Snapshot
from storage.feature_states import planned_lineage, remove_states
from storage.features import finish_tables, plan_tables, read_table, write_range
from storage.locations import Location

RANGE_FEATURES = 8192
"""Features merged and tabulated together: at 2,000 genes a feature, 600 MB of pairs."""
STATES = "states"
SINGLE_GENE_BITS = 1.0
"""Gene entropy below which a feature is, in effect, one gene."""


@dataclass(frozen=True)
class FeatureOptions:
    """What decides the tables beside the inputs.

    sample_tokens: whole tokens kept for co-activation. ranges: how many ranges of features the work is cut
    into; None for as many as memory asks for. sae_genomics: write the two JSON files.
    """

    tables: TableOptions = field(default_factory=TableOptions)
    top_cells: int = 100
    sample_tokens: int = 65_536
    seed: int = 0
    ranges: int | None = None
    sae_genomics: bool = True

    def edges(self, n_features: int) -> list[int]:
        """Where ranges of features begin, and the end."""
        n_ranges = min(self.ranges or -(-n_features // RANGE_FEATURES), n_features)
        return [n_features * number // n_ranges for number in range(n_ranges + 1)]


@dataclass(frozen=True)
class FeatureRun:
    """What `explain` did; `did_work` is False when the tables were complete already."""

    snapshot: Snapshot
    did_work: bool
    spent: Spent = field(default_factory=Spent)
    seconds: float = 0.0


def lineage(subject: Subject, feature_pass: FeaturePass, options: FeatureOptions) -> dict[str, Any]:
    """Everything the tables depend on."""
    return {
        **feature_pass.lineage(),
        "sae": subject.sae_fingerprint,
        "hook": subject.hook,
        "cells": subject.store.dataset_id,
        "n_cells": subject.n_cells,
        "label": subject.label.name if subject.label else None,
        **asdict(options),
        **({"sampled_cells": SAMPLED_CELLS} if options.tables.score == "presence" else {}),
    }


def explain(
    subject: Subject,
    feature_pass: FeaturePass,
    options: FeatureOptions,
    output: Location,
    *,
    address: str | None = None,
    overwrite: bool = False,
    report: Progress | None = None,
) -> FeatureRun:
    """Write the feature tables to `output`. Raises LineageMismatch when others are there."""
    edges = options.edges(subject.n_features)
    if overwrite:
        remove_states(output / STATES)
    dataset = plan_tables(output, lineage(subject, feature_pass, options), edges, overwrite=overwrite)
    if dataset.is_complete:
        remove_states(output / STATES)
        return FeatureRun(dataset.finish(), did_work=False)
    started, report = time.monotonic(), report or (lambda done, total, unit: None)
    with ray_session.connect(address):
        plan = plan_pass(subject, feature_pass, options, output / STATES)
        spent = feature_pass.observe(plan, edges, output / STATES, report)
        tokens = _write_ranges(subject, plan, options, dataset, output / STATES, report)
    snapshot = _finish(dataset, tokens, subject, options)
    remove_states(output / STATES)
    return FeatureRun(snapshot, True, spent, time.monotonic() - started)


def plan_pass(
    subject: Subject, feature_pass: FeaturePass, options: FeatureOptions, states: Location
) -> PassPlan:
    """Sizes and scales that every member must share; a sample of the activations sets the resolution."""
    resolution = planned_resolution(planned_lineage(states))
    share = min(1.0, options.sample_tokens / max(feature_pass.most_tokens(), 1))
    return PassPlan(
        n_features=subject.n_features,
        n_genes=len(subject.genes),
        n_labels=len(subject.label.labels) if subject.label else 0,
        top_cells=options.top_cells,
        resolution=resolution_for(feature_pass.sample_peak()) if resolution is None else resolution,
        exact_levels=exact_levels_for(subject.n_cells, subject.n_features),
        sample_share=share if options.tables.partners else 0.0,
        seed=options.seed,
        cell_share=share_for(subject.n_cells) if options.tables.score == "presence" else 0.0,
    )


def _write_ranges(
    subject: Subject,
    plan: PassPlan,
    options: FeatureOptions,
    dataset: Dataset,
    states: Location,
    report: Progress,
) -> TokenTotals:
    """Merge all states and commit the tables of every range that has none yet."""
    import ray

    reduction = Reduction(Dataset.open(states), plan)
    tokens = reduction.tokens()
    names = ray.put(subject.names())
    keys = [member.key for member in dataset.members]
    merged = [reduction.range(number) for number in range(len(keys))]
    labels: list[Any] = [None] * len(keys)
    if subject.label is not None:
        labels = _labels(plan, tokens, merged, subject.label.labels)
    presence = _presence(subject, plan)
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_tabulate_and_commit)
    pending = {member.key for member in dataset.pending()}
    running = [
        task.remote(
            plan, tokens, merged[number], names, options.tables, labels[number], presence, dataset, key
        )
        for number, key in enumerate(keys)
        if key in pending
    ]
    del merged, labels
    for done in range(len(running)):
        report(done, len(running), "ranges")
        ready, running = ray.wait(running, num_returns=1)
        ray.get(ready)
    totals: TokenTotals = ray.get(tokens)
    return totals


def _presence(subject: Subject, plan: PassPlan) -> Any:
    """Reference to the genes of the sampled cells; None when no cells are sampled."""
    import ray

    if not plan.cell_share:
        return None
    expression = Expression.by_gene_id(subject.store, subject.genes["gene_id"].tolist())
    read = ray.remote(num_cpus=1, max_retries=RETRIES)(_read_presence)
    return read.remote(expression, plan, subject.n_cells)


def _read_presence(expression: Expression, plan: PassPlan, n_cells: int) -> Presence:
    return Presence.read(expression, plan, n_cells)


def _labels(plan: PassPlan, tokens: Any, merged: list[Any], labels: tuple[str, ...]) -> list[Any]:
    """References to the label table of each range, with false discovery rates over the rows of all."""
    import ray

    test = ray.remote(num_cpus=1, max_retries=RETRIES, num_returns=2)(_label_tests)
    rate = ray.remote(num_cpus=1, max_retries=RETRIES)(with_fdr)
    tested = [test.remote(plan, tokens, part, labels) for part in merged]
    p_values: list[tuple[Float64, Float64]] = ray.get([p for _, p in tested])
    edges = np.cumsum([len(p) for p, _ in p_values])[:-1]
    rates = [
        np.split(statistics.benjamini_hochberg(np.concatenate(column)), edges)
        for column in zip(*p_values, strict=True)
    ]
    return [
        rate.remote(table, of_range)
        for (table, _), of_range in zip(tested, zip(*rates, strict=True), strict=True)
    ]


def _label_tests(
    plan: PassPlan, tokens: TokenTotals, part: FeatureTotals, labels: tuple[str, ...]
) -> tuple[pd.DataFrame, tuple[Float64, ...]]:
    table = label_table(FeatureState(plan, tokens, part), labels)
    return table, tuple(table[name].to_numpy(np.float64) for name in P_VALUES)


def _tabulate_and_commit(
    plan: PassPlan,
    tokens: TokenTotals,
    part: FeatureTotals,
    names: Names,
    options: TableOptions,
    labels: pd.DataFrame | None,
    presence: Presence | None,
    dataset: Dataset,
    key: str,
) -> None:
    tables = tabulate(FeatureState(plan, tokens, part), names, options, labels, presence)
    write_range(dataset, key, vars(tables), range_facts(tables.features, part))


def range_facts(features: pd.DataFrame, part: FeatureTotals) -> dict[str, int]:
    """What the features of a range add up to."""
    fired = features["n_tokens"] > 0
    return {
        "n_features_fired": int(fired.sum()),
        "n_single_gene_features": int((fired & (features["gene_entropy"] < SINGLE_GENE_BITS)).sum()),
        "n_activations": int(features["n_tokens"].sum()),
        "n_pairs": len(part.pairs.key_P),
    }


def _finish(dataset: Dataset, tokens: TokenTotals, subject: Subject, options: FeatureOptions) -> Snapshot:
    records = list(dataset.records())
    totals = {
        name: sum(int(record.facts[name]) for record in records)
        for name in ("n_features_fired", "n_single_gene_features", "n_activations", "n_pairs")
    }
    facts = {
        "n_features": subject.n_features,
        "n_gene_tokens": tokens.n_tokens,
        "n_tokens_without_count": tokens.n_without_count,
        "n_sampled_tokens": tokens.n_sampled,
        "n_cells": tokens.n_cells,
        **totals,
        "single_gene_share": round(totals["n_single_gene_features"] / max(totals["n_features_fired"], 1), 4),
        "mean_active_features": round(totals["n_activations"] / max(tokens.n_tokens, 1), 4),
    }
    written = _sae_genomics(dataset) if options.sae_genomics else {}
    return finish_tables(dataset, vocabulary_table(tokens, subject.names()), written, facts)


def _sae_genomics(dataset: Dataset) -> Mapping[str, bytes]:
    def ranges(name: str) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
        for member in dataset.members:
            yield tuple(read_table(dataset, table, [member.key]) for table in ("features", name))  # type: ignore[misc]

    return {
        "feature_gene_associations.json": products.gene_associations(ranges("top_genes")),
        "feature_cell_associations.json": products.cell_associations(ranges("top_cells")),
    }
