"""Attribution over the cells of a store: tasks over runs of cells, twice; sums in between pick features.

    every run of cells -> scores of all features -> the strongest -> every run of cells -> a closer look

A run that is killed begins anew; what is written is complete or not there.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from engine import models, ray_session
from engine.interpret.attribution.effects import STEPS, Attributor
from engine.interpret.attribution.metrics import Head, Metric, heads
from engine.interpret.attribution.passes import (
    Attribution,
    Depth,
    attribution_of,
    check_cells,
    score_cells,
)
from engine.interpret.attribution.scores import Checked, Scores
from engine.interpret.inputs import EncodedInputs
from engine.interpret.passes import Progress
from engine.interpret.steering.activity import label_directions
from engine.interpret.steering.reading import open_reading, require_readable
from engine.interpret.steering.run import SurveyRequest, survey_on_ray, survey_spans, token_ids
from engine.models import Encoder
from engine.streaming.recipe import Recipe
from engine.streaming.replicas import EncoderSpec, load_encoder
from storage.checkpoints import local_copy
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.errors import InputError
from storage.feature_states import remove_states
from storage.locations import Location
from storage.ranged_tables import parquet

KIND = "attribution"
CELLS_PER_TASK = 32
TASKS_AHEAD = 64
"""Results that wait to be added up; each holds a few numbers per feature."""


@dataclass(frozen=True)
class AttributionRequest:
    """What is asked. metric: "loss", "gene:GENE", "mvc:GENE" or "label:VALUE"; the last is the embedding's
    direction towards a value of the label column, found by a survey of some cells."""

    metric: str
    depth: Depth = field(default_factory=Depth)
    seed: int = 0
    survey: SurveyRequest = field(default_factory=SurveyRequest)

    def as_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "seed": self.seed,
            "top_share": self.depth.top_share,
            "ablated": self.depth.ablated,
            "steps": STEPS,
            "survey_cells": self.survey.cells,
            "layer": self.survey.layer,
            "pool": self.survey.pool,
        }


@dataclass(frozen=True)
class AttributionRun:
    """What `attribute_cells` did; `did_work` is False when it was complete already."""

    snapshot: Snapshot
    did_work: bool
    seconds: float = 0.0


def attribute_cells(
    inputs: EncodedInputs,
    request: AttributionRequest,
    output: Location,
    *,
    recipe: Recipe,
    address: str | None = None,
    overwrite: bool = False,
    report: Progress | None = None,
) -> AttributionRun:
    """Write which features the metric of the store's cells rests on. Raises InputError, ModelError before
    anything is written when the metric is not one of this encoder's."""
    require_readable(inputs)
    asked = _read_metric(request, inputs)
    dataset = Dataset.plan(
        output,
        kind=KIND,
        lineage=_lineage(inputs, request, recipe),
        members=[MemberPlan("all", {"n_cells": inputs.n_cells})],
        overwrite=overwrite,
    )
    if dataset.is_complete:
        return AttributionRun(dataset.finish(), did_work=False)
    started = time.monotonic()
    try:
        with ray_session.connect(address):
            metric = _with_direction(asked, inputs, request, recipe)
            found = _both_passes(inputs, metric, request, recipe, report or _say_nothing)
    except InputError:
        remove_states(output)  # a plan that cannot be carried out is not to stand in the way of another
        raise
    writer = dataset.member("all")
    writer.put("features.parquet", parquet(found.features))
    writer.commit({"n_cells": found.n_cells})
    body = {
        "metric": request.metric,
        "hook": inputs.hook,
        "value": found.value,
        "n_cells": found.n_cells,
        "n_features_fired": len(found.features),
        "agreement_with_ablation": found.agreement,
    }
    snapshot = dataset.finish({"metrics.json": json.dumps(body, indent=2).encode()}, body)
    return AttributionRun(snapshot, True, time.monotonic() - started)


def _read_metric(request: AttributionRequest, inputs: EncodedInputs) -> Metric:
    """The metric as asked, still without its direction."""
    text = request.metric
    kind, _, name = text.partition(":")
    encoder = models.load(local_copy(inputs.stream.model.path), weights=False)
    if kind == "loss" and not name:
        metric = Metric("loss", seed=request.seed)
    elif kind in ("gene", "mvc") and name:
        (token,) = token_ids(inputs, (name,), "metric")
        head: Head = "mvc" if kind == "mvc" else heads(encoder)[0] if heads(encoder) else "expression"
        metric = Metric("gene", gene=token, head=head)
    elif kind == "label" and name:
        _label_number(request, inputs)
        layer = inputs.stream.model.layer(request.survey.layer)
        metric = Metric("direction", layer=layer, pool=request.survey.pool or encoder.default_pool)
    else:
        raise InputError(f"--metric {text}: expected loss, gene:GENE, mvc:GENE or label:VALUE.")
    metric.require(encoder)
    return metric


def _label_number(request: AttributionRequest, inputs: EncodedInputs) -> int:
    """Of the value that --metric label:VALUE names; cells with it and cells without it must be surveyed."""
    text, label = request.metric, inputs.label
    name = text.partition(":")[2]
    if label is None:
        raise InputError(f"--metric {text}: say with --label which obs column the value is of.")
    if name not in label.labels:
        shown = ", ".join(label.labels[:10])
        raise InputError(f"--metric {text}: {label.name} has no value {name!r}; it has {shown}.")
    number = label.labels.index(name)
    spans = survey_spans(inputs.n_cells, request.survey.cells)
    code_C = np.concatenate([label.code_C[slice(*span)] for span in spans])
    if not (code_C == number).any() or not ((code_C >= 0) & (code_C != number)).any():
        raise InputError(
            f"--metric {text}: a direction needs cells with the label and cells with another; of the "
            f"{len(code_C)} cells looked at, {int((code_C == number).sum())} have it. Raise --survey-cells."
        )
    return number


def _lineage(inputs: EncodedInputs, request: AttributionRequest, recipe: Recipe) -> Mapping[str, Any]:
    return {
        "cells": inputs.store.dataset_id,
        "n_cells": inputs.n_cells,
        "model": inputs.stream.model.fingerprint,
        "sae": inputs.sae_fingerprint,
        "hook": inputs.hook,
        "label": inputs.label.name if inputs.label else None,
        "max_tokens": recipe.max_tokens,
        "compute": recipe.precision,
        "seed": recipe.seed,
        "batch_tokens": recipe.batch_tokens,
        KIND: request.as_json(),
    }


def _with_direction(
    metric: Metric, inputs: EncodedInputs, request: AttributionRequest, recipe: Recipe
) -> Metric:
    if metric.kind != "direction":
        return metric
    directions_LD = label_directions(survey_on_ray(inputs, request.survey, recipe))
    return replace(metric, direction_D=directions_LD[_label_number(request, inputs)])


def _both_passes(
    inputs: EncodedInputs, metric: Metric, request: AttributionRequest, recipe: Recipe, report: Progress
) -> Attribution:
    import ray

    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    device = "cuda" if gpus else "cpu"

    def task(function: Callable[..., Any]) -> Any:
        return ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(function)

    work = ray.put(_Work(inputs, metric, recipe, device))
    scores = Scores.empty(inputs.n_features)
    for part in _each_span(task(_score_span), (work,), inputs.n_cells, "cells", report):
        scores.merge(part)
    if scores.n_cells == 0:
        raise InputError(f"--metric {request.metric}: none of the {inputs.n_cells} cells has it.")
    integrated, ablated = request.depth.chosen(scores)
    parts: list[Checked] = list(
        _each_span(task(_check_span), (work, integrated, ablated), inputs.n_cells, "cells", report)
    )
    return attribution_of(scores, Checked.joined(parts), seed=recipe.seed)


def _each_span(
    task: Any, arguments: tuple[Any, ...], n_cells: int, unit: str, report: Progress
) -> Iterator[Any]:
    """Results of all runs of cells in their order, so that sums do not depend on who was first."""
    import ray

    spans = [(start, min(start + CELLS_PER_TASK, n_cells)) for start in range(0, n_cells, CELLS_PER_TASK)]
    running: deque[Any] = deque()
    waiting = iter(spans)
    report(0, n_cells, unit)
    for _, stop in spans:
        while len(running) < TASKS_AHEAD and (span := next(waiting, None)) is not None:
            running.append(task.remote(*arguments, *span))
        yield ray.get(running.popleft())
        report(stop, n_cells, unit)


@dataclass(frozen=True)
class _Work:
    """What every task needs. Travels once."""

    inputs: EncodedInputs
    metric: Metric
    recipe: Recipe
    device: str


def _score_span(work: _Work, start: int, stop: int) -> Scores:
    attributor, tokens = _opened(work, start, stop)
    return score_cells(attributor, tokens, np.arange(start, stop), work.recipe.batch_tokens)


def _check_span(
    work: _Work, integrated: tuple[int, ...], ablated: tuple[int, ...], start: int, stop: int
) -> Checked:
    attributor, tokens = _opened(work, start, stop)
    cells, budget = np.arange(start, stop), work.recipe.batch_tokens
    return check_cells(attributor, tokens, cells, budget, integrated, ablated)


def _opened(work: _Work, start: int, stop: int) -> tuple[Attributor, Any]:
    inputs, recipe = work.inputs, work.recipe
    model = inputs.stream.model
    spec = EncoderSpec(model.path, recipe.precision, recipe.batch_tokens, 1, work.device)
    encoder = _encoder(spec, model.fingerprint)
    reading = open_reading(encoder, inputs.sae_path, inputs.sae_fingerprint)
    attributor = Attributor(encoder, reading, inputs.hook, work.metric)
    tokenise = inputs.stream.tokeniser(recipe.max_tokens, recipe.seed)
    return attributor, tokenise.tokens(inputs.store.read(start, stop))


@lru_cache(maxsize=1)
def _encoder(spec: EncoderSpec, fingerprint: str) -> Encoder:
    """Loaded once a worker process, not once a task; the fingerprint tells a replaced directory apart."""
    return load_encoder(spec)


def _say_nothing(done: int, total: int, unit: str) -> None:
    """Where nobody asked for progress."""
