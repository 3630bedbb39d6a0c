"""An evaluation as a committed dataset: metrics.json, the table of perturbations, and the page."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from engine.perturbation import cell_eval, vcc2026
from engine.perturbation.baselines import REPLICATE
from engine.perturbation.evaluation.options import EvaluationOptions
from engine.perturbation.evaluation.page import render
from engine.perturbation.evaluation.score import PREDICTION, Pair, Progress, Scored, score
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.ingest.scan import fingerprint_of_input
from storage.locations import Location
from storage.ranged_tables import parquet

KIND = "perturbation_evaluation"
METRICS, TABLE, TABLE_CSV, PAGE = "metrics.json", "perturbations.parquet", "perturbations.csv", "index.html"
REFERENCE = "mean_delta"
"""The baseline that scaled scores begin at."""
# Say how many, not how good.
_NOT_METRICS = ("context", "perturbation", "contender", "n_real", "n_predicted")


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` did; `did_work` is False when it was there already. metrics: as metrics.json has it."""

    snapshot: Snapshot
    metrics: Mapping[str, Any]
    did_work: bool
    seconds: float = 0.0


def evaluate(
    pair: Pair,
    options: EvaluationOptions,
    output: Location,
    *,
    overwrite: bool = False,
    report: Progress = lambda done, total, unit: None,
) -> Evaluation:
    """Write metrics, tables and the page to `output`.

    Raises LineageMismatch when another evaluation is there, and what `score` raises, before anything is
    written.
    """
    started = time.monotonic()
    lineage = {
        **{name: _identity(side) for name, side in (("real", pair.real), ("predicted", pair.predicted))},
        "options": {**asdict(options), "baselines": list(options.baselines)},
    }
    plan = [MemberPlan("evaluation", {})]
    dataset = Dataset.plan(output, kind=KIND, lineage=lineage, members=plan, overwrite=overwrite)
    if dataset.is_complete:
        snapshot = dataset.finish()
        return Evaluation(snapshot, json.loads(snapshot.read(METRICS)), did_work=False)
    scored = score(pair, options, report)
    metrics = summary(scored)
    writer = dataset.member("evaluation")
    writer.put(TABLE, parquet(scored.rows))
    writer.put(TABLE_CSV, scored.rows.to_csv(index=False).encode())
    writer.put(PAGE, render(metrics, scored, pair.real.genes, pair.real.where, pair.predicted.where).encode())
    writer.commit({"n_perturbations": len(pair.groups)})
    content = json.dumps(metrics, indent=2, allow_nan=False).encode()
    snapshot = dataset.finish({METRICS: content}, {"n_perturbations": len(pair.groups)})
    return Evaluation(snapshot, metrics, True, time.monotonic() - started)


def summary(scored: Scored) -> dict[str, Any]:
    """metrics.json: means over perturbations of a context, then over contexts; null: not defined."""
    by_context: dict[str, dict[str, dict[str, float]]] = {}
    for (context, name), whole in scored.whole.items():
        chosen = scored.rows[(scored.rows["context"] == context) & (scored.rows["contender"] == name)]
        if len(chosen):
            values = _means(chosen.drop(columns=[*_NOT_METRICS]))
            by_context.setdefault(context, {})[name] = {**values, **whole}
    contenders = _over_contexts(by_context)
    return {
        "contenders": {name: _plain(values) for name, values in contenders.items()},
        "cell_eval_scores": _cell_eval_scores(contenders),
        "vcc2026_scores": _vcc_scores(contenders),
        "by_context": {
            context: {name: _plain(values) for name, values in found.items()}
            for context, found in by_context.items()
        },
        "n_perturbations": int(scored.rows[scored.rows["contender"] == PREDICTION].shape[0]),
        "baselines_know": scored.known,
        "scaled_from": REFERENCE,
        "warnings": scored.warnings,
    }


def _over_contexts(
    by_context: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> dict[str, dict[str, float]]:
    names = list(dict.fromkeys(name for found in by_context.values() for name in found))
    frames = {
        name: pd.DataFrame([found[name] for found in by_context.values() if name in found]) for name in names
    }
    return {name: _means(frame) for name, frame in frames.items()}


def _means(frame: pd.DataFrame) -> dict[str, float]:
    """Of every column that has any number."""
    return {str(name): float(value) for name, value in frame.mean().dropna().items()}


def _cell_eval_scores(contenders: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """cell-eval's scaled scores of every contender from the mean effect; VCC 2025's overall beside them."""
    base = contenders.get(REFERENCE)
    if base is None:
        return {}
    ours = {name for name in base if name not in vcc2026.METRICS and not name.startswith("expr_")}
    base = {name: base[name] for name in ours}
    found = {}
    for name, values in contenders.items():
        found[name] = cell_eval.scores(values, base)
        if "overlap_at_N" in values and "overlap_at_N" in base:
            found[name]["vcc2025"] = cell_eval.challenge_score(values, base)
    return found


def _vcc_scores(contenders: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """vcc2026: 0 is the mean response, 1 a split-half replicate. Empty without raw counts on both sides."""
    base, ceiling = contenders.get(REFERENCE, {}), contenders.get(REPLICATE, {})
    found = {}
    for contender, values in contenders.items():
        if all(name in values and name in base and name in ceiling for name in vcc2026.METRICS):
            scaled = {
                name: vcc2026.scaled(name, values[name], base[name], ceiling[name])
                for name in vcc2026.METRICS
            }
            found[contender] = _plain({**scaled, "mean": float(np.mean(list(scaled.values())))})
    return found


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}


def _identity(side: Any) -> dict[str, Any]:
    """What a screen's labels and cells depend on."""
    return {
        "content": fingerprint_of_input(side.where),
        "control": side.control,
        "labels": {"/".join(group): len(rows) for group, rows in side.groups.items()},
    }
