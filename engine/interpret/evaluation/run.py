"""Evaluating an autoencoder in stages, each committed when done; an interrupted run goes on at the next.

Every number of the autoencoder stands beside that of its baselines, in `summary.parquet` and under
"dictionaries" of metrics.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from engine import ray_session
from engine.interpret.evaluation.inputs import EvaluationInputs
from engine.interpret.evaluation.metrics import metrics
from engine.interpret.evaluation.options import EvaluationOptions
from engine.interpret.evaluation.stages import Stages
from engine.interpret.passes import Progress
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.locations import Location
from storage.ranged_tables import parquet

KIND = "sae_evaluation"
METRICS, SUMMARY = "metrics.json", "summary.parquet"


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` did; `did_work` is False when it was there already. metrics: as metrics.json has it."""

    snapshot: Snapshot
    metrics: Mapping[str, Any]
    did_work: bool
    seconds: float = 0.0
    peak_memory_bytes: int | None = None


def lineage(inputs: EvaluationInputs, options: EvaluationOptions) -> dict[str, Any]:
    """Everything the numbers depend on."""
    return {
        "sae": inputs.sae_fingerprint,
        "cache": inputs.cache.dataset_id,
        "hook": inputs.hook,
        "n_cells": inputs.n_cells,
        "cells": inputs.store.dataset_id if inputs.store else None,
        "label": inputs.label.name if inputs.label else None,
        "group": inputs.groups.column,
        "model": inputs.downstream.model.fingerprint if inputs.downstream else None,
        "against": [other.fingerprint for other in inputs.against],
        **asdict(options),
        "baselines": list(options.baselines),
    }


def evaluate(
    inputs: EvaluationInputs,
    options: EvaluationOptions,
    output: Location,
    *,
    address: str | None = None,
    overwrite: bool = False,
    report: Progress | None = None,
) -> Evaluation:
    """Write tables and metrics.json to `output`. Raises LineageMismatch when another evaluation is there."""
    started = time.monotonic()
    stages = Stages(inputs, options, report or (lambda done, total, unit: None))
    members = [MemberPlan(name, {}) for name in stages.names]
    dataset = Dataset.plan(
        output, kind=KIND, lineage=lineage(inputs, options), members=members, overwrite=overwrite
    )
    if dataset.is_complete:
        snapshot = dataset.finish()
        return Evaluation(snapshot, json.loads(snapshot.read(METRICS)), did_work=False)
    peak = 0
    with ray_session.connect(address):
        for member in dataset.pending():
            found = stages.run(member.key, dataset)
            writer = dataset.member(member.key)
            for name, content in found.objects.items():
                writer.put(name, content)
            writer.commit(found.facts)
            peak = max(peak, found.peak_memory_bytes)
    summary = metrics(inputs, options, {record.key: record.facts for record in dataset.records()})
    objects = {
        SUMMARY: parquet(pd.DataFrame(summary["dictionaries"])),
        METRICS: json.dumps(summary, indent=2, allow_nan=False).encode(),
    }
    snapshot = dataset.finish(objects, {"n_dictionaries": len(summary["dictionaries"])})
    return Evaluation(snapshot, summary, True, time.monotonic() - started, peak or None)
