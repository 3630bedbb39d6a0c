"""The stages of an evaluation: each gives the objects it leaves on disk and the facts of its record.

baselines   mean, number of active features, random autoencoder, frozen decoder, principal directions
tokens      one pass over the cache: FVU, L0, densities, labels, genes; then sparse probes
downstream  spliced into the encoder: losses and embeddings
stability   against the other autoencoders given
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load, save

from engine.interpret.evaluation import baselines, probes, tables
from engine.interpret.evaluation.baselines import TRAINED, Statistics
from engine.interpret.evaluation.dictionaries import Dictionary
from engine.interpret.evaluation.downstream import embedding_table, loss_table
from engine.interpret.evaluation.inputs import EvaluationInputs
from engine.interpret.evaluation.metrics import as_json, probe_summary
from engine.interpret.evaluation.options import EvaluationOptions
from engine.interpret.evaluation.splicing import ChunkResult, run_chunk
from engine.interpret.evaluation.stability import stability_of
from engine.interpret.evaluation.token_pass import RETRIES, PassPlan, TokenState, look, plan_pass
from engine.interpret.evaluation.tokens import calibration_cells, members_with_cells, tokens_in
from engine.interpret.passes import Progress
from engine.models import sae
from engine.streaming.draws import token_draws
from storage.checkpoints import local_copy
from storage.commits import Dataset
from storage.ranged_tables import parquet

BASELINE_STAGE, TOKEN_STAGE, DOWNSTREAM_STAGE, STABILITY_STAGE = (
    "baselines",
    "tokens",
    "downstream",
    "stability",
)
CHUNK_CELLS = 32
"""Cells spliced together: at 2,048 genes 65,536 tokens, a few batches of an encoder."""
_STATISTICS = "baselines/statistics.safetensors"
_FEATURES = "features.parquet"
_SPLICED = 6
"""A stream of `token_draws` that nobody else uses."""


class Found(NamedTuple):
    """What a stage leaves: objects by name, facts (JSON values), and the largest peak memory of a worker."""

    objects: dict[str, bytes]
    facts: dict[str, Any]
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class Stages:
    """Run one by one in a Ray session, in the order of `names`; later ones read what earlier ones left."""

    inputs: EvaluationInputs
    options: EvaluationOptions
    report: Progress

    @property
    def names(self) -> list[str]:
        further = [DOWNSTREAM_STAGE] if self.inputs.downstream else []
        further += [STABILITY_STAGE] if self.inputs.against else []
        return [BASELINE_STAGE, TOKEN_STAGE, *further]

    def run(self, name: str, dataset: Dataset) -> Found:
        """One stage; those before it must be committed."""
        stage = {
            BASELINE_STAGE: self._baselines,
            TOKEN_STAGE: self._tokens,
            DOWNSTREAM_STAGE: self._downstream,
            STABILITY_STAGE: self._stability,
        }[name]
        found = stage(dataset)
        return found._replace(facts=as_json(found.facts))

    def _baselines(self, dataset: Dataset) -> Found:
        self.report(0, 1, "baselines")
        found, objects = _on_a_worker(_build_baselines, self.inputs, self.options)
        self.report(1, 1, "baselines")
        objects[_STATISTICS] = save({"mean": found.mean_D.numpy()})
        return Found(objects, {"scale": found.scale, "k": found.k})

    def _tokens(self, dataset: Dataset) -> Found:
        inputs, options = self.inputs, self.options
        found, dictionaries = self._dictionaries(dataset)
        names, parts = list(dictionaries), list(dictionaries.values())
        there = tokens_in(inputs, members_with_cells(inputs))
        share = 1.0 if options.tokens is None else min(1.0, options.tokens / max(there, 1))
        plan = _on_a_worker(_plan_pass, inputs, options, parts, found.mean_D, share)
        state, peak = look(inputs, plan, parts, self.report)
        objects, facts = token_tables(inputs, state, names, [bins.n_levels for bins in plan.bins])
        probed = _probe(inputs, state, names, found.k, options.seed)
        facts["probing"] = None
        if probed is not None:
            table, facts["probing"] = probed
            objects["probes.parquet"] = parquet(table)
            for row in facts["rows"]:
                row |= probe_summary(table, row["dictionary"])
        return Found(objects, facts, peak)

    def _downstream(self, dataset: Dataset) -> Found:
        found, dictionaries = self._dictionaries(dataset)
        chunks = self._splice(dictionaries, found.mean_D)
        cell_C = np.concatenate([chunk.cell_C for chunk in chunks])
        label = self.inputs.label
        label_C = None if label is None else label.code_C[cell_C].astype(np.int64)
        losses = loss_table(chunks)
        embeddings = embedding_table(chunks, label_C, self.options.seed)
        return Found(
            {"loss.parquet": parquet(losses), "embeddings.parquet": parquet(embeddings)},
            {"losses": losses.to_dict("records"), "embeddings": embeddings.to_dict("records")},
        )

    def _stability(self, dataset: Dataset) -> Found:
        own = sae.load(local_copy(self.inputs.sae_path)).W_dec.detach()
        others = [sae.load(local_copy(other.path)).W_dec.detach() for other in self.inputs.against]
        features = pd.read_parquet(io.BytesIO(dataset.location.read(_FEATURES)))
        own_rows = features[features["dictionary"] == TRAINED].sort_values("feature")
        alive_F = (own_rows["n_tokens"] > 0).to_numpy()
        table, facts = stability_of(own, others, alive_F, self.options.seed)
        facts["against"] = [asdict(other) for other in self.inputs.against]
        return Found({"stability.parquet": parquet(table)}, facts)

    def _dictionaries(self, dataset: Dataset) -> tuple[Statistics, dict[str, Dictionary]]:
        record = dataset.record(BASELINE_STAGE)
        objects = {name: dataset.location.read(name) for name in record.objects}
        mean_D = torch.from_numpy(load(objects[_STATISTICS])["mean"])
        found = Statistics(mean_D, float(record.facts["scale"]), int(record.facts["k"]))
        return found, baselines.opened(self.inputs, found, objects, self.options.baselines)

    def _splice(self, dictionaries: Mapping[str, Dictionary], mean_D: torch.Tensor) -> list[ChunkResult]:
        """All replacements on a draw of cells, a task for every few of them."""
        import ray

        cells = spliced_cells(self.inputs, self.options)
        gpus = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {}
        task = ray.remote(num_cpus=1, max_retries=RETRIES, **gpus)(run_chunk)
        shared = ray.put(self.inputs), ray.put(dict(dictionaries)), ray.put(mean_D)
        seed, device = self.options.seed, "cuda" if gpus else "cpu"
        starts = range(0, len(cells), CHUNK_CELLS)
        running = [task.remote(*shared, cells[at : at + CHUNK_CELLS], seed, device) for at in starts]
        chunks = []
        for done, reference in enumerate(running):
            self.report(done, len(running), "chunks of cells")
            chunks.append(ray.get(reference))
        return chunks


def _on_a_worker(work: Callable[..., Any], *arguments: Any) -> Any:
    """`work(*arguments, device)` as one task, where there are GPUs on one."""
    import ray

    gpus = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {}
    task = ray.remote(num_cpus=1, max_retries=RETRIES, **gpus)(work)
    return ray.get(task.remote(*arguments, "cuda" if gpus else "cpu"))


def _build_baselines(
    inputs: EvaluationInputs, options: EvaluationOptions, device: str
) -> tuple[Statistics, dict[str, bytes]]:
    cells = calibration_cells(inputs, options.seed)
    found = Statistics.of(cells.x_TD, sae.load(local_copy(inputs.sae_path)).to(device))
    objects = baselines.build(
        inputs,
        found,
        cells.x_TD,
        options.baselines,
        steps=options.frozen_steps,
        seed=options.seed,
        device=device,
    )
    return found, objects


def _plan_pass(
    inputs: EvaluationInputs,
    options: EvaluationOptions,
    parts: Sequence[Dictionary],
    mean_D: torch.Tensor,
    share: float,
    device: str,
) -> PassPlan:
    return plan_pass(
        inputs,
        calibration_cells(inputs, options.seed),
        parts,
        mean_D,
        share=share,
        probe_cells=options.probe_cells,
        seed=options.seed,
        device=device,
    )


def token_tables(
    inputs: EvaluationInputs, state: TokenState, names: Sequence[str], n_levels: Sequence[int]
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Parquet objects of the pass, and its facts: a row of the summary for every dictionary. n_levels: of the
    maxima of each."""
    sums = state.reconstruction
    n_tokens = int(sums.tokens_S[sums.strata(inputs.kind)].sum())
    features, labels = {}, {}
    for name, activity, levels in zip(names, state.activities, n_levels, strict=True):
        if inputs.label is not None:
            alive_F = activity.cells_F > 0
            found = tables.label_table(
                activity.levels, levels, alive_F, state.label_cells_L, inputs.label.labels
            )
            labels[name] = found
        features[name] = tables.feature_table(activity, n_tokens, state.n_cells, labels.get(name))
    rows: list[dict[str, Any]] = [
        {"dictionary": name} | tables.dictionary_row(sums, number, features[name], inputs.kind)
        for number, name in enumerate(names)
    ]
    if inputs.label is not None:
        depth = tables.depth_table(state.depth, state.label_cells_L, inputs.label.labels)
        labels[tables.DEPTH] = depth
        rows.append(tables.depth_row(depth))
    reconstruction = tables.reconstruction_table(sums, names, inputs.groups)
    objects = {
        "reconstruction.parquet": parquet(reconstruction),
        "density.parquet": parquet(tables.density_table(features)),
        _FEATURES: parquet(_stacked(features)),
        **({"labels.parquet": parquet(_stacked(labels))} if labels else {}),
    }
    facts = {
        "rows": rows,
        "n_tokens": n_tokens,
        "n_cells": state.n_cells,
        "reconstruction": reconstruction.to_dict("records"),
    }
    return objects, facts


def _stacked(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    named = [table.assign(dictionary=name) for name, table in parts.items()]
    table = pd.concat(named, ignore_index=True)
    return table[["dictionary", *(name for name in table if name != "dictionary")]]


def _probe(
    inputs: EvaluationInputs, state: TokenState, names: Sequence[str], k: int, seed: int
) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """Sparse and dense probes of the labels; None without labels or with hardly a cell that has one."""
    if inputs.label is None or not state.means.cells:
        return None
    cell_C, x_CD, codes = state.means.tables()
    if len(cell_C) < 2 * probes.FEWEST_CELLS:
        return None
    label_C = inputs.label.code_C[cell_C].astype(np.int64)
    folds = probes.split(label_C, inputs.groups.code_C[cell_C].astype(np.int64), seed)
    cells = probes.ProbedCells(x_CD, dict(zip(names, codes, strict=True)), label_C, folds, k)
    table = probes.probe_table(_all_scores(cells), inputs.label.labels)
    keys = ["representation", "k"]
    means = table.groupby(keys, sort=False)[["auroc", "average_precision"]].mean().reset_index()
    facts = {
        "cells": len(cell_C),
        "held_out": folds.held_out,
        "folds": len(folds.folds),
        "means_over_labels": means.to_dict("records"),
    }
    return table, facts


def _all_scores(cells: probes.ProbedCells) -> list[probes.Score]:
    """Probes of all labels, a task for each."""
    import ray

    task = ray.remote(num_cpus=1, max_retries=RETRIES)(probes.scores_of_label)
    shared = ray.put(cells)
    of_labels: list[list[probes.Score]] = ray.get([task.remote(shared, label) for label in cells.labels()])
    return [score for scores in of_labels for score in scores]


def spliced_cells(inputs: EvaluationInputs, options: EvaluationOptions) -> np.ndarray:
    """Rows of the cells that go through the encoder, ascending: those with the smallest draws, of cells with
    a label where there are labels."""
    known = inputs.labelled() if inputs.label else np.arange(inputs.n_cells)
    draws = token_draws(options.seed, known, np.zeros(len(known), np.int64), stream=_SPLICED)
    chosen: np.ndarray = np.sort(known[np.argsort(draws, kind="stable")[: options.downstream_cells]])
    return chosen
