"""The feature pass over a whole cache: one Ray task a member, merged on the driver as they come.

    members -> observe (tasks, 1 CPU, 3 retries) -> merge -> tables, JSON products -> one commit

States merge exactly, so neither the number of workers nor the order in which they finish can show in a
result.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from engine import ray_session
from engine.interpret import features, products
from engine.interpret.features import FeatureState, PassPlan
from engine.interpret.inputs import FeatureInputs
from engine.interpret.tables import tabulate
from engine.models import sae
from storage.checkpoints import local_copy
from storage.features import plan_tables, write_tables
from storage.locations import Location
from storage.protocol.snapshots import Snapshot

# done, total, unit
Progress = Callable[[int, int, str], None]

RETRIES = 3
# Members in flight for each CPU: one running, one whose inputs are on their way.
IN_FLIGHT_PER_CPU = 2
# States held unmerged: merging touches every key, so each arrival is not merged by itself.
MERGE_EVERY = 8


@dataclass(frozen=True)
class FeatureOptions:
    """What decides the tables beside the inputs."""

    top_genes: int = 100
    top_cells: int = 100
    min_gene_tokens: int = 1

    def lineage(self, inputs: FeatureInputs) -> dict[str, Any]:
        """Everything the tables depend on."""
        return {
            "sae": inputs.sae_fingerprint,
            "cache": inputs.cache.dataset_id,
            "hook": inputs.hook,
            "cells": inputs.store.dataset_id,
            "n_cells": inputs.n_cells,
            "label": inputs.label.name if inputs.label else None,
            "top_genes": self.top_genes,
            "top_cells": self.top_cells,
            "min_gene_tokens": self.min_gene_tokens,
        }


@dataclass(frozen=True)
class FeatureRun:
    """What `explain` did; `did_work` is False when the tables were complete already."""

    snapshot: Snapshot
    did_work: bool
    n_tokens: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int | None = None


def explain(
    inputs: FeatureInputs,
    options: FeatureOptions,
    output: Location,
    *,
    address: str | None = None,
    overwrite: bool = False,
    report: Progress | None = None,
) -> FeatureRun:
    """Write the feature tables to `output`. Raises LineageMismatch when others are there."""
    dataset = plan_tables(output, options.lineage(inputs), overwrite=overwrite)
    if dataset.is_complete:
        return FeatureRun(dataset.finish(), did_work=False)
    started = time.monotonic()
    plan = plan_pass(inputs, options.top_cells)
    with ray_session.connect(address):
        state, peak = _observe_all(inputs, plan, report or (lambda done, total, unit: None))
    tables = tabulate(state, inputs.names(), options.top_genes, options.min_gene_tokens)
    snapshot = write_tables(
        dataset,
        {
            "features": tables.features,
            "top_genes": tables.top_genes,
            "top_cells": tables.top_cells,
            "labels": tables.labels,
        },
        {
            "feature_gene_associations.json": products.gene_associations(tables.features, tables.top_genes),
            "feature_cell_associations.json": products.cell_associations(tables.features, tables.top_cells),
        },
        facts=facts(state),
    )
    return FeatureRun(snapshot, True, state.n_tokens, time.monotonic() - started, peak)


def facts(state: FeatureState) -> Mapping[str, Any]:
    """The size of what was looked at, kept in the snapshot."""
    return {
        "n_features": state.plan.n_features,
        "n_features_fired": int((state.cells_F > 0).sum()),
        "n_gene_tokens": state.n_tokens,
        "n_cells": state.n_cells,
        "mean_active_features": round(int(state.pairs.fired_P.sum()) / max(state.n_tokens, 1), 4),
    }


def plan_pass(inputs: FeatureInputs, top_cells: int) -> PassPlan:
    """Sizes and scales that every member must share; a sample of the first sets the resolution."""
    sample = inputs.cache.read(inputs.hook, inputs.cache.members[0].key).acts[: features.SAMPLE_TOKENS]
    return PassPlan(
        n_features=inputs.n_features,
        n_genes=len(inputs.cache.genes),
        n_labels=len(inputs.label.labels) if inputs.label else 0,
        top_cells=top_cells,
        resolution=features.choose_resolution(_autoencoder(inputs.sae_path, inputs.sae_fingerprint), sample),
        level_bits=features.level_bits_for(inputs.n_cells, inputs.n_features),
    )


@lru_cache(maxsize=1)
def _autoencoder(path: str, fingerprint: str) -> sae.SAE:
    """Loaded once a worker process, not once a member; the fingerprint tells a replaced directory apart."""
    return sae.load(local_copy(path))


def observe_member(inputs: FeatureInputs, plan: PassPlan, key: str) -> tuple[FeatureState, int]:
    """State of one cache member, and this process's peak memory in bytes."""
    tokens = inputs.cache.read(inputs.hook, key)
    acts, cell_T, gene_T = tokens.acts, tokens.cell, tokens.gene
    if inputs.n_cells < inputs.store.n_cells:
        kept = np.flatnonzero(cell_T < inputs.n_cells)
        acts, cell_T, gene_T = acts[torch.from_numpy(kept)], cell_T[kept], gene_T[kept]
    state = features.observe(
        plan,
        _autoencoder(inputs.sae_path, inputs.sae_fingerprint),
        acts,
        cell_T,
        gene_T,
        inputs.gene_tokens,
        inputs.label.code_C if inputs.label else None,
    )
    return state, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _observe_all(inputs: FeatureInputs, plan: PassPlan, report: Progress) -> tuple[FeatureState, int]:
    """Every member that holds wanted cells, a bounded number at a time."""
    members = [record for record in inputs.cache.members if int(record.facts["start"]) < inputs.n_cells]
    total, done, peak = sum(int(record.facts["n_tokens"]) for record in members), 0, 0
    states = [features.empty_state(plan)]
    sizes = {record.key: int(record.facts["n_tokens"]) for record in members}
    report(0, total, "tokens")
    for key, state, memory in _results(inputs, plan, list(sizes)):
        states.append(state)
        if len(states) > MERGE_EVERY:
            states = [features.merge(states)]
        done, peak = done + sizes[key], max(peak, memory)
        report(done, total, "tokens")
    return features.merge(states), peak


def _results(
    inputs: FeatureInputs, plan: PassPlan, keys: list[str]
) -> Iterator[tuple[str, FeatureState, int]]:
    import ray

    task = ray.remote(num_cpus=1, max_retries=RETRIES)(observe_member)
    shared_inputs = ray.put(inputs)
    window = IN_FLIGHT_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting, running = list(reversed(keys)), dict[Any, str]()
    while waiting or running:
        while waiting and len(running) < window:
            key = waiting.pop()
            running[task.remote(shared_inputs, plan, key)] = key
        ready, _ = ray.wait(list(running), num_returns=1)
        key = running.pop(ready[0])
        state, memory = ray.get(ready[0])
        yield key, state, memory
