"""A feature pass over activation caches: one Ray task a member, each of which commits what it saw."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.interpret.codes import sparse_codes
from engine.interpret.expression import Expression
from engine.interpret.features import Observer
from engine.interpret.inputs import CachedSubject
from engine.interpret.passes import (
    Progress,
    Spent,
    autoencoder,
    commit_state,
    gene_means,
    observe_tokens,
    plan_lineage,
)
from engine.interpret.state import FeatureState, PassPlan
from storage.commits import Dataset, MemberPlan
from storage.feature_states import plan_states
from storage.locations import Location

RETRIES = 3
# Members in flight for each CPU: one running, one whose inputs are on their way.
IN_FLIGHT_PER_CPU = 2
# Tasks that share a GPU: encoding is a part of the work, sorting on the CPU the rest.
TASKS_PER_GPU = 4
# Several shards make one member where there are many: states repeat what shards have in common. With many
# features they have little in common, and a member's pairs must fit in memory.
MEMBERS_WANTED, MOST_SHARDS, MOST_SHARDS_X_FEATURES = 64, 8, 1 << 19
SAMPLE_TOKENS = 1024


@dataclass(frozen=True)
class CachedPass:
    """Looks at every token of the cache, or of all caches together, whose cell is wanted."""

    inputs: CachedSubject

    def lineage(self) -> Mapping[str, Any]:
        return self.inputs.tokens.lineage()

    def most_tokens(self) -> int:
        return sum(self.inputs.tokens.n_tokens()[: len(self._shards())])

    def sample_peak(self) -> float:
        inputs = self.inputs
        which = inputs.sae_path, inputs.sae_fingerprint
        tokens = inputs.tokens.read(0)
        codes = sparse_codes(
            autoencoder(*which),
            tokens.acts[:SAMPLE_TOKENS],
            inputs.n_features,
            gene_T=tokens.gene,
            gene_means_GD=gene_means(*which),
        )
        return float(codes.data.max(initial=0.0))

    def members(self) -> list[MemberPlan]:
        """Consecutive shards of the cache: `[first, stop)` of its members."""
        n_shards = len(self._shards())
        most = min(MOST_SHARDS, MOST_SHARDS_X_FEATURES // self.inputs.n_features)
        size = max(1, min(n_shards // MEMBERS_WANTED, most))
        return [
            MemberPlan(f"{number:06d}", {"first": first, "stop": min(first + size, n_shards)})
            for number, first in enumerate(range(0, n_shards, size))
        ]

    def observe(self, plan: PassPlan, edges: Sequence[int], states: Location, report: Progress) -> Spent:
        inputs = self.inputs
        lineage = {
            **self.lineage(),
            "sae": inputs.sae_fingerprint,
            "hook": inputs.hook,
            "n_cells": inputs.n_cells,
            "label": inputs.label.name if inputs.label else None,
            "feature_states": plan_lineage(plan, edges),
        }
        dataset = plan_states(states, lineage, self.members())
        n_tokens = inputs.tokens.n_tokens()
        sizes = {
            member.key: sum(n_tokens[member.facts["first"] : member.facts["stop"]])
            for member in dataset.members
        }
        pending = [member.key for member in dataset.pending()]
        total, looked_at, peak = sum(sizes.values()), 0, 0
        begun_with = total - sum(sizes[key] for key in pending)
        report(begun_with, total, "tokens")
        for key, memory in self._results(plan, edges, dataset, pending):
            looked_at, peak = looked_at + sizes[key], max(peak, memory)
            report(begun_with + looked_at, total, "tokens")
        dataset.finish()
        return Spent(looked_at, peak or None)

    def _shards(self) -> range:
        """Shards with wanted cells; they are in the order of cells."""
        return range(sum(start < self.inputs.n_cells for start in self.inputs.tokens.first_cells()))

    def _results(
        self, plan: PassPlan, edges: Sequence[int], dataset: Dataset, keys: Sequence[str]
    ) -> Iterator[tuple[str, int]]:
        if not keys:
            return
        import ray

        resources = ray.cluster_resources()
        gpus = {"num_gpus": 1 / TASKS_PER_GPU} if resources.get("GPU") else {}
        task = ray.remote(num_cpus=1, max_retries=RETRIES, **gpus)(_observe_and_commit)
        inputs = ray.put(self.inputs)
        window = IN_FLIGHT_PER_CPU * max(1, int(resources.get("CPU", 1)))
        waiting, running = list(reversed(keys)), dict[Any, str]()
        while waiting or running:
            while waiting and len(running) < window:
                key = waiting.pop()
                running[task.remote(inputs, plan, tuple(edges), dataset, key, bool(gpus))] = key
            ready, _ = ray.wait(list(running), num_returns=1)
            yield running.pop(ready[0]), ray.get(ready[0])


def _observe_and_commit(
    inputs: CachedSubject, plan: PassPlan, edges: Sequence[int], dataset: Dataset, key: str, on_gpu: bool
) -> int:
    """Returns this process's peak memory in bytes."""
    facts = next(member.facts for member in dataset.members if member.key == key)
    shards = range(facts["first"], facts["stop"])
    commit_state(dataset, key, observe_shards(inputs, plan, shards, "cuda" if on_gpu else "cpu"), edges)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def observe_shards(
    inputs: CachedSubject, plan: PassPlan, shards: Sequence[int], device: str = "cpu"
) -> FeatureState:
    """State of some shards, by their numbers."""
    which = inputs.sae_path, inputs.sae_fingerprint, device
    encoder, means_GD = autoencoder(*which), gene_means(*which)
    expression = Expression.by_gene_id(inputs.store, inputs.genes["gene_id"].tolist())
    observer = Observer(plan, inputs.label.code_C if inputs.label else None)
    for number in shards:
        tokens = inputs.tokens.read(number)
        kept = np.flatnonzero(inputs.gene_tokens[tokens.gene] & (tokens.cell < inputs.n_cells))
        observe_tokens(
            observer,
            encoder,
            means_GD,
            tokens.acts[torch.from_numpy(kept)],
            tokens.cell[kept],
            tokens.gene[kept],
            tokens.pos[kept],
            expression,
        )
    return observer.state()
