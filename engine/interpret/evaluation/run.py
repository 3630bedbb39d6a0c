"""Evaluating an autoencoder in stages, each committed when done; an interrupted run goes on at the next.

    baselines   mean, number of active features, random autoencoder, frozen decoder, principal directions
    tokens      one pass over the cache: FVU, L0, densities, labels, genes; then sparse probes
    downstream  spliced into the encoder: losses and embeddings (with a model)
    stability   against the other autoencoders given (with any)

Every number of the autoencoder stands beside that of its baselines in `summary.parquet` and in the list
"dictionaries" of metrics.json.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load, save

from engine import ray_session
from engine.interpret.comparison import SAME_ABOVE, stability_over_seeds
from engine.interpret.evaluation import baselines, probes, tables
from engine.interpret.evaluation.baselines import BASELINES, TRAINED, Statistics
from engine.interpret.evaluation.dictionaries import Dictionary
from engine.interpret.evaluation.downstream import TOTAL, embedding_table, loss_table
from engine.interpret.evaluation.inputs import EvaluationInputs
from engine.interpret.evaluation.reconstruction import GENE
from engine.interpret.evaluation.splicing import ChunkResult, run_chunk
from engine.interpret.evaluation.token_pass import RETRIES, TokenState, look, plan_pass
from engine.interpret.evaluation.tokens import calibration_cells, members_with_cells, tokens_in
from engine.interpret.passes import Progress
from engine.models import sae
from engine.streaming.draws import token_draws
from storage.checkpoints import local_copy
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.features import parquet
from storage.locations import Location

KIND = "sae_evaluation"
METRICS, SUMMARY = "metrics.json", "summary.parquet"
_STATISTICS = "baselines/statistics.safetensors"
CHUNK_CELLS = 32
"""Cells spliced together: at 2,048 genes 65,536 tokens, two batches of an encoder."""
DEAD_WINDOW = 10_000_000
"""Tokens after which a silent feature may be called dead (specs/sae.md section 6)."""
_SPLICED = 6
"""A stream of `token_draws` that nobody else uses."""


@dataclass(frozen=True)
class EvaluationOptions:
    """What decides the numbers beside the inputs.

    tokens: of whole cells, about so many are looked at; None for all. probe_cells: cells with a label that
    probes are trained and tested on. downstream_cells: cells that go through the encoder. frozen_steps: of
    2,048 tokens, for the frozen decoder.
    """

    tokens: int | None = 2_000_000
    probe_cells: int = 4096
    downstream_cells: int = 512
    frozen_steps: int = 500
    seed: int = 0
    baselines: tuple[str, ...] = BASELINES


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
        **{
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(options).items()
        },
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
    """Write tables and metrics.json to `output`. Raises LineageMismatch when an evaluation of something else
    is there."""
    stages = ["baselines", "tokens"]
    stages += ["downstream"] if inputs.downstream else []
    stages += ["stability"] if inputs.against else []
    dataset = Dataset.plan(
        output,
        kind=KIND,
        lineage=lineage(inputs, options),
        members=[MemberPlan(stage, {}) for stage in stages],
        overwrite=overwrite,
    )
    if dataset.is_complete:
        snapshot = dataset.finish()
        return Evaluation(snapshot, json.loads(snapshot.read(METRICS)), did_work=False)
    started, report = time.monotonic(), report or (lambda done, total, unit: None)
    run = _Run(inputs, options, dataset, report)
    with ray_session.connect(address):
        for member in dataset.pending():
            getattr(run, member.key)()
    metrics = run.metrics()
    objects = {
        METRICS: json.dumps(metrics, indent=2, allow_nan=False).encode(),
        SUMMARY: parquet(pd.DataFrame(metrics["dictionaries"])),
    }
    snapshot = dataset.finish(objects, {"n_dictionaries": len(metrics["dictionaries"])})
    return Evaluation(snapshot, metrics, True, time.monotonic() - started, run.peak or None)


class _Run:
    """The stages of one evaluation; what one needs of another it reads from disk."""

    def __init__(
        self, inputs: EvaluationInputs, options: EvaluationOptions, dataset: Dataset, report: Progress
    ) -> None:
        self.inputs, self.options, self.dataset, self.report = inputs, options, dataset, report
        self.peak = 0

    def baselines(self) -> None:
        """Statistics of the calibration cells, and what is built on them."""
        self.report(0, 1, "baselines")
        found, objects = _on_a_worker(_build_baselines, self.inputs, self.options)
        objects[_STATISTICS] = save({"mean": found.mean_D.numpy()})
        facts = {"scale": found.scale, "k": found.k}
        _commit(self.dataset, "baselines", objects, facts)
        self.report(1, 1, "baselines")

    def tokens(self) -> None:
        """The pass over the cache, its tables, and the probes."""
        inputs, options = self.inputs, self.options
        found, dictionaries = self._dictionaries()
        n_tokens = tokens_in(inputs, members_with_cells(inputs))
        share = 1.0 if options.tokens is None else min(1.0, options.tokens / max(n_tokens, 1))
        plan = plan_pass(
            inputs,
            calibration_cells(inputs, options.seed),
            list(dictionaries.values()),
            found.mean_D,
            share=share,
            probe_cells=options.probe_cells,
            seed=options.seed,
        )
        state, self.peak = look(inputs, plan, list(dictionaries.values()), self.report)
        objects, rows = _token_tables(inputs, state, list(dictionaries))
        table, probing = self._probes(state, list(dictionaries), found.k)
        if table is not None:
            objects["probes.parquet"] = parquet(table)
            for row in rows:
                row |= _probe_summary(table, row["dictionary"])
        evaluated = int(state.reconstruction.tokens_S[state.reconstruction.strata(GENE)].sum())
        facts = {"rows": rows, "n_gene_tokens": evaluated, "n_cells": state.n_cells, "probing": probing}
        _commit(self.dataset, "tokens", objects, facts)

    def downstream(self) -> None:
        """Splices reconstructions into the encoder, some cells at a time."""
        found, dictionaries = self._dictionaries()
        chunks = _splice(self.inputs, dictionaries, found.mean_D, self.options, self.report)
        label = self.inputs.label
        label_C = None if label is None else label.code_C[np.concatenate([chunk.cell_C for chunk in chunks])]
        losses = loss_table(chunks)
        embeddings = embedding_table(
            chunks, None if label_C is None else label_C.astype(np.int64), self.options.seed
        )
        objects = {"loss.parquet": parquet(losses), "embeddings.parquet": parquet(embeddings)}
        facts = {"losses": losses.to_dict("records"), "embeddings": embeddings.to_dict("records")}
        _commit(self.dataset, "downstream", objects, facts)

    def stability(self) -> None:
        """Which features other autoencoders have too, and how many would by chance."""
        own = sae.load(local_copy(self.inputs.sae_path)).W_dec
        others = [sae.load(local_copy(other.path)).W_dec for other in self.inputs.against]
        alive_F = self._alive()
        stable = stability_over_seeds(own, others)
        generator = torch.Generator().manual_seed(self.options.seed)
        chance = stability_over_seeds(torch.randn(own.shape, generator=generator), others)
        backward = [stability_over_seeds(other, [own]) for other in others]
        table = pd.DataFrame(
            {
                "feature": np.arange(len(own)),
                "alive": alive_F,
                "found_share": stable.score,
                "similarity": stable.similarity,
            }
        )
        facts = {
            "same_above": SAME_ABOVE,
            "against": [asdict(other) for other in self.inputs.against],
            "all_features": stable.shares(),
            "alive_features": stable.shares(alive_F),
            "random_directions": chance.shares(),
            "other_features_found_here": [back.shares()["best_share"] for back in backward],
        }
        _commit(self.dataset, "stability", {"stability.parquet": parquet(table)}, facts)

    def metrics(self) -> dict[str, Any]:
        """metrics.json, from the records of all stages."""
        facts = {record.key: record.facts for record in self.dataset.records()}
        seen = facts["tokens"]
        rows = [dict(row) for row in seen["rows"]]
        for row in rows:
            row |= _downstream_summary(facts.get("downstream"), row["dictionary"])
        inputs = self.inputs
        return {
            "sae": {
                "path": inputs.sae_path,
                "fingerprint": inputs.sae_fingerprint,
                "architecture": inputs.config.architecture,
                "d_in": inputs.config.d_in,
                "d_sae": inputs.config.d_sae,
                "hook": inputs.hook,
            },
            "window": {
                "gene_tokens": seen["n_gene_tokens"],
                "cells": seen["n_cells"],
                "dead_means": f"fires on none of these {seen['n_gene_tokens']:,} gene tokens",
                "long_enough_for_dead": seen["n_gene_tokens"] >= DEAD_WINDOW,
                "trained_on_these_tokens": inputs.trained_here,
                "groups": inputs.groups.column,
            },
            "baselines": {
                "active_features": facts["baselines"]["k"],
                "frozen_decoder_tokens": self.options.frozen_steps * baselines.BATCH_TOKENS,
            },
            "dictionaries": rows,
            "probing": seen["probing"],
            **{name: facts[name] for name in ("downstream", "stability") if name in facts},
        }

    def _dictionaries(self) -> tuple[Statistics, dict[str, Dictionary]]:
        record = self.dataset.record("baselines")
        objects = {name: self.dataset.location.read(name) for name in record.objects}
        mean_D = torch.from_numpy(load(objects[_STATISTICS])["mean"])
        found = Statistics(mean_D, float(record.facts["scale"]), int(record.facts["k"]))
        return found, baselines.opened(self.inputs, found, objects, self.options.baselines)

    def _probes(
        self, state: TokenState, names: Sequence[str], k: int
    ) -> tuple[pd.DataFrame | None, dict[str, Any] | None]:
        label = self.inputs.label
        if label is None or not state.means.cells:
            return None, None
        cell_C, x_CD, codes = state.means.tables()
        label_C = label.code_C[cell_C].astype(np.int64)
        if len(cell_C) < 2 * probes.FEWEST_CELLS:
            return None, None
        folds = probes.split(label_C, self.inputs.groups.code_C[cell_C], self.options.seed)
        table = probes.probe_table(
            x_CD, dict(zip(names, codes, strict=True)), label_C, label.labels, folds, k_pca=k
        )
        return table, {
            "label": label.name,
            "cells": len(cell_C),
            "held_out": folds.held_out,
            "folds": len(folds.folds),
            "means": _probe_means(table),
        }

    def _alive(self) -> np.ndarray:
        features = pd.read_parquet(io.BytesIO(self.dataset.location.read("features.parquet")))
        own = features[features["dictionary"] == TRAINED].sort_values("feature")
        alive_F: np.ndarray = (own["n_tokens"] > 0).to_numpy()
        return alive_F


def _build_baselines(
    inputs: EvaluationInputs, options: EvaluationOptions
) -> tuple[Statistics, dict[str, bytes]]:
    cells = calibration_cells(inputs, options.seed)
    found = Statistics.of(cells.x_TD, sae.load(local_copy(inputs.sae_path)))
    objects = baselines.build(
        inputs, found, cells.x_TD, options.baselines, steps=options.frozen_steps, seed=options.seed
    )
    return found, objects


def _on_a_worker(work: Any, *arguments: Any) -> Any:
    """The result of a function run as one task, where the GPUs and the memory are."""
    import ray

    task = ray.remote(num_cpus=1, max_retries=RETRIES)(work)
    return ray.get(task.remote(*arguments))


def _commit(dataset: Dataset, stage: str, objects: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    writer = dataset.member(stage)
    for name, content in objects.items():
        writer.put(name, content)
    writer.commit(_plain(facts))


def _plain(value: Any) -> Any:
    """As JSON has it: numbers that are none become null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _token_tables(
    inputs: EvaluationInputs, state: TokenState, names: Sequence[str]
) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Parquet objects of the pass, and a row of the summary for every dictionary."""
    sums = state.reconstruction
    n_tokens = int(sums.tokens_S[sums.strata(GENE)].sum())
    features, labels = {}, {}
    for name, activity in zip(names, state.activities, strict=True):
        if inputs.label is not None:
            labels[name] = tables.label_table(activity, state.label_cells_L, inputs.label.labels)
        features[name] = tables.feature_table(activity, n_tokens, state.n_cells, labels.get(name))
    objects = {
        "reconstruction.parquet": parquet(tables.reconstruction_table(sums, names, inputs.groups)),
        "density.parquet": parquet(tables.density_table(features)),
        "features.parquet": parquet(_stacked(features)),
    }
    if labels:
        objects["labels.parquet"] = parquet(_stacked(labels))
    rows = [
        {"dictionary": name} | tables.dictionary_row(sums, number, features[name])
        for number, name in enumerate(names)
    ]
    return objects, rows


def _stacked(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    named = [table.assign(dictionary=name) for name, table in parts.items()]
    table = pd.concat(named, ignore_index=True)
    return table[["dictionary", *(name for name in table if name != "dictionary")]]


def _probe_means(table: pd.DataFrame) -> list[dict[str, Any]]:
    """AUROC and precision of every representation and k, means over labels."""
    keys = ["representation", "k"]
    means = table.groupby(keys, sort=False)[["auroc", "average_precision"]].mean().reset_index()
    records: list[dict[str, Any]] = means.to_dict("records")
    return records


def _probe_summary(table: pd.DataFrame, name: str) -> dict[str, float]:
    own = table[table["representation"] == name]
    return {f"probe_auroc_{k}": float(own.loc[own["k"] == str(k), "auroc"].mean()) for k in probes.SPARSITIES}


def _downstream_summary(facts: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    if facts is None:
        return {}
    row: dict[str, Any] = {}
    for loss in facts["losses"]:
        if loss["dictionary"] == name and loss["term"] == TOTAL:
            row |= {f"{kind}_{loss['scope']}": loss[kind] for kind in ("recovered_zero", "recovered_mean")}
    for found in facts["embeddings"]:
        if found["replacement"] == name:
            row[f"embedding_cosine_{found['pool']}"] = found["cosine"]
            if "accuracy_same_probe" in found:
                row[f"label_accuracy_{found['pool']}"] = found["accuracy_same_probe"]
    return row


def _splice(
    inputs: EvaluationInputs,
    dictionaries: Mapping[str, Dictionary],
    mean_D: torch.Tensor,
    options: EvaluationOptions,
    report: Progress,
) -> list[ChunkResult]:
    """All replacements on a draw of cells, a task for every few of them. Called inside a Ray session."""
    import ray

    cells = spliced_cells(inputs, options)
    gpus = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {}
    task = ray.remote(num_cpus=1, max_retries=RETRIES, **gpus)(run_chunk)
    shared = ray.put(inputs), ray.put(dict(dictionaries)), ray.put(mean_D)
    device = "cuda" if gpus else "cpu"
    starts = range(0, len(cells), CHUNK_CELLS)
    running = [
        task.remote(*shared, cells[start : start + CHUNK_CELLS], options.seed, device) for start in starts
    ]
    chunks = []
    for done, reference in enumerate(running):
        report(done, len(running), "chunks of cells")
        chunks.append(ray.get(reference))
    return chunks


def spliced_cells(inputs: EvaluationInputs, options: EvaluationOptions) -> np.ndarray:
    """Rows of the cells that go through the encoder, ascending: those with the smallest draws, of cells with
    a label where there are labels."""
    known = inputs.labelled() if inputs.label else np.arange(inputs.n_cells)
    draws = token_draws(options.seed, known, np.zeros(len(known), np.int64), stream=_SPLICED)
    chosen: np.ndarray = np.sort(known[np.argsort(draws, kind="stable")[: options.downstream_cells]])
    return chosen
