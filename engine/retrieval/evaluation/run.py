"""Measuring a joint model in stages, each committed when done: the numbers, and a page that shows them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.retrieval.annotation.inputs import AnnotationInputs
from engine.retrieval.evaluation import retrieval
from engine.retrieval.evaluation.baselines import baseline_scores, described_split
from engine.retrieval.evaluation.bootstrap import bootstrap
from engine.retrieval.evaluation.gene_sets import term_correlations
from engine.retrieval.evaluation.inputs import Int64, MeasuredCells, Reference, Texts
from engine.retrieval.evaluation.integration import integration
from engine.retrieval.evaluation.naming import aurocs, calibration, naming, per_label
from engine.retrieval.evaluation.page import render
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.locations import Location

KIND = "joint_evaluation"
METRICS, PAGE = "metrics.json", "index.html"
JOINT, SHUFFLED = "joint", "shuffled_captions"

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class JointEvaluationOptions:
    """templates: how labels are put into words. draws: of the bootstrap, 0 for no intervals. sample: cells
    measured, None for all. seed: of every draw.
    """

    label: str
    caption: str
    templates: tuple[str, ...] = ("celltype",)
    group: str | None = None
    batch: str | None = None
    sample: int | None = 20_000
    draws: int = 200
    seed: int = 0


@dataclass(frozen=True)
class JointEvaluation:
    """What `evaluate` did; `did_work` is False when it was there already. metrics: as metrics.json has it."""

    snapshot: Snapshot
    metrics: Mapping[str, Any]
    did_work: bool
    seconds: float = 0.0


def plan(
    inputs: AnnotationInputs,
    options: JointEvaluationOptions,
    embedded: str,
    reference: str | None,
    output: Location,
    *,
    overwrite: bool = False,
) -> Dataset:
    """Start the evaluation, or take up the one there. Raises LineageMismatch for another one.

    embedded: what decides the embeddings beside cells and model. reference: id of the store that baselines
    learn from.
    """
    lineage = {**inputs.facts, **asdict(options), "templates": list(options.templates)}
    lineage |= {"embedded": embedded, "reference": reference}
    stages = [MemberPlan(name, {}) for name in STAGES]
    return Dataset.plan(output, kind=KIND, lineage=lineage, members=stages, overwrite=overwrite)


def evaluate(
    dataset: Dataset,
    inputs: AnnotationInputs,
    cells: MeasuredCells,
    reference: Reference | None,
    options: JointEvaluationOptions,
    report: Report | None = None,
) -> JointEvaluation:
    """Do the stages that are left, and write metrics.json and index.html."""
    started = time.monotonic()
    subject = Subject(inputs, cells, Texts.of(inputs, cells, options.templates), reference, options)
    for member in dataset.pending():
        done = list(STAGES).index(member.key)
        if report is not None:
            report(done, len(STAGES), f"stages, {member.key}")
        writer = dataset.member(member.key)
        found = without_nan(STAGES[member.key](subject))
        writer.put(f"stages/{member.key}.json", json.dumps(found, allow_nan=False).encode())
        writer.commit()
    stages = {
        record.key: json.loads(dataset.location.read(f"stages/{record.key}.json"))
        for record in dataset.records()
    }
    metrics = {"protocol": protocol(subject), **stages}
    objects = {
        METRICS: json.dumps(metrics, indent=2, allow_nan=False, ensure_ascii=False).encode(),
        PAGE: render(metrics).encode(),
    }
    snapshot = dataset.finish(objects, {"n_cells": len(cells)})
    return JointEvaluation(snapshot, metrics, True, time.monotonic() - started)


@dataclass(frozen=True)
class Subject:
    """All that the stages look at."""

    inputs: AnnotationInputs
    cells: MeasuredCells
    texts: Texts
    reference: Reference | None
    options: JointEvaluationOptions

    def label_scores(self) -> np.ndarray:
        """Cosine times scale [C, L]."""
        return self.cells.e_CU @ self.texts.label_LU.T * self.texts.scale


def protocol(subject: Subject) -> dict[str, Any]:
    """What a number means nothing without."""
    cells, options = subject.cells, subject.options
    return {
        "store": str(cells.store.location),
        "joint": subject.inputs.joint,
        "model": subject.inputs.model,
        "n_cells": len(cells),
        "n_cells_of_store": cells.store.n_cells,
        "label": options.label,
        "n_labels_asked": len(cells.labels),
        "n_labels_present": len(cells.labels_present),
        "caption": options.caption,
        "n_captions": len(cells.captions),
        "leaked_labels": leaked(cells),
        "templates": list(options.templates),
        "scale": subject.texts.scale,
        "width": int(cells.e_CU.shape[1]),
        "ties": retrieval.TIES,
        "split": described_split(cells, subject.reference),
        "group": cells.group,
        "batch": cells.batch,
        "bootstrap_draws": options.draws,
        "seed": options.seed,
    }


def leaked(cells: MeasuredCells) -> float:
    """Share of captions that hold the words of a label they stand for: there, retrieval is naming."""
    names = np.array([name.lower() for name in cells.labels])
    pairs = np.unique(np.stack([cells.caption_C, cells.label_C], axis=1), axis=0)
    held = {int(caption) for caption, label in pairs if names[label] in cells.captions[caption].lower()}
    return len(held) / len(cells.captions)


def _retrieval(subject: Subject) -> dict[str, Any]:
    return retrieval.both_levels(subject.cells, subject.texts.caption_PU, subject.options.seed)


def _naming(subject: Subject) -> dict[str, Any]:
    cells, score_CL = subject.cells, subject.label_scores()
    table = per_label(score_CL.argmax(axis=1), cells.label_C, len(cells.labels))
    auroc_L = aurocs(score_CL, cells.label_C)
    rows = [
        {
            "label": cells.labels[label],
            **{name: float(column[label]) for name, column in table.items()},
            "auroc": float(auroc_L[label]),
        }
        for label in cells.labels_present
    ]
    return {**naming(score_CL, cells.label_C), "labels": rows}


def _calibration(subject: Subject) -> dict[str, Any]:
    return calibration(subject.label_scores(), subject.cells.label_C)


def _baselines(subject: Subject) -> dict[str, Any]:
    """Every system measured alike: the text is the label, in the model's case in its template."""
    cells, options = subject.cells, subject.options
    joint_CL = subject.label_scores()
    order = np.random.default_rng(options.seed).permutation(len(cells.labels))
    scored = {
        JOINT: joint_CL,
        SHUFFLED: joint_CL[:, order],
        **baseline_scores(cells, subject.reference, options.seed),
    }
    return {
        name: {
            **naming(score_CL, cells.label_C),
            **_flat(retrieval.label_recall(score_CL.T, cells.label_C, cells.labels_present)),
        }
        for name, score_CL in scored.items()
    }


def _integration(subject: Subject) -> dict[str, Any]:
    from sklearn.decomposition import TruncatedSVD

    cells, seed = subject.cells, subject.options.seed
    components = max(1, min(50, min(cells.expression.shape) - 1))
    pca = TruncatedSVD(components, random_state=seed).fit_transform(cells.expression)
    return {
        JOINT: integration(cells.e_CU, cells.label_C, cells.batches, seed),
        "pca": integration(pca.astype(np.float32), cells.label_C, cells.batches, seed),
    }


def _gene_sets(subject: Subject) -> dict[str, Any]:
    inputs = subject.inputs
    found = term_correlations(inputs.libraries, inputs.text_side, subject.cells, subject.options.seed)
    return found or {}


def _intervals(subject: Subject) -> dict[str, Any]:
    """Of naming, and of finding a label's name from a cell and a cell from the name."""
    cells, options, score_CL = subject.cells, subject.options, subject.label_scores()

    def statistics(drawn: Int64) -> dict[str, float]:
        own, label_C = score_CL[drawn], cells.label_C[drawn]
        found = _flat(retrieval.label_recall(own.T, label_C, np.unique(label_C)))
        return {**naming(own, label_C), **found}

    intervals, drawn = bootstrap(statistics, len(cells), cells.groups, options.draws, options.seed)
    return {"drawn": drawn, "level": 0.95, "intervals": intervals}


STAGES: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "retrieval": _retrieval,
    "zero_shot": _naming,
    "calibration": _calibration,
    "baselines": _baselines,
    "integration": _integration,
    "gene_sets": _gene_sets,
    "confidence_intervals": _intervals,
}


def without_nan(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is null."""
    if isinstance(value, Mapping):
        return {str(name): without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _flat(recalls: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {
        f"{direction}_{name}": value
        for direction, found in recalls.items()
        for name, value in found.items()
        if name.startswith(("recall@", "macro_recall@", "median_rank"))
    }
