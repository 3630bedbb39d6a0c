"""Feature dashboards for Neuronpedia: batches of JSON in the form of SAEDashboard's NeuronpediaDashboardBatch
(https://github.com/jbloomAus/SAEDashboard, sae_dashboard/neuronpedia/neuronpedia_dashboard.py).

A cell is a prompt; its tokens are gene symbols, the most expressed first. Lists about logits stay empty: an
encoder of cells has no next token. Written beside the tables, under OUTPUT/neuronpedia, as a dataset by
itself, so it can be asked for later and resumes.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import ray

from engine import ray_session
from engine.interpret.inputs import FeatureInputs
from engine.interpret.passes import Progress, autoencoder
from engine.interpret.prompts import TOKENS_IN_PROMPT, Prompt, prompts_of_shard
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.features import FeatureTables
from storage.locations import Location

KIND = "neuronpedia"
FOLDER = "neuronpedia"
FEATURES_IN_BATCH = 128
ALIGNED_DIMENSIONS = 3
RETRIES = 3
# What SAEDashboard writes for a group of prompts that are the strongest, not of an interval.
TOP_GROUP = -1


@dataclass(frozen=True)
class Export:
    """How the dashboards are named. model_id, sae_set: on Neuronpedia. cells: prompts of a feature, at most
    as many as the tables list."""

    model_id: str
    sae_set: str
    cells: int = 20


def export(
    inputs: FeatureInputs,
    tables: FeatureTables,
    options: Export,
    output: Location,
    *,
    address: str | None = None,
    overwrite: bool = False,
    report: Progress | None = None,
) -> Snapshot:
    """Write the batches of finished tables under `output`; those of another export are refused."""
    lineage = {"features": tables.dataset_id, "tokens_in_prompt": TOKENS_IN_PROMPT, **asdict(options)}
    members = [MemberPlan(key) for key in tables.ranges]
    dataset = Dataset.plan(output / FOLDER, kind=KIND, lineage=lineage, members=members, overwrite=overwrite)
    pending = [member.key for member in dataset.pending()]
    if pending:
        with ray_session.connect(address):
            for done, key in enumerate(pending):
                if report:
                    report(done, len(pending), "ranges")
                _write_range(inputs, tables, options, dataset, key)
    return dataset.finish(facts={"n_features": inputs.n_features})


def _write_range(
    inputs: FeatureInputs, tables: FeatureTables, options: Export, dataset: Dataset, key: str
) -> None:
    of_range = {
        name: tables.table(name, [key]) for name in ("features", "top_cells", "histograms", "partners")
    }
    wanted = of_range["top_cells"]
    prompts = _prompts(inputs, wanted[wanted["rank"] < options.cells])
    writer = dataset.member(key)
    features = of_range["features"]
    entries = feature_entries(inputs, of_range, prompts)
    for number, start in enumerate(range(0, len(features), FEATURES_IN_BATCH)):
        batch = {
            "model_id": options.model_id,
            "layer": layer_of(inputs.hook),
            "sae_set": options.sae_set,
            "features": [next(entries) for _ in range(min(FEATURES_IN_BATCH, len(features) - start))],
        }
        writer.put(f"{key}/batch-{number}.json", json.dumps(batch, allow_nan=False).encode())
    writer.commit({"n_prompts": sum(map(len, prompts.values()))})


def _prompts(inputs: FeatureInputs, wanted: pd.DataFrame) -> Mapping[int, list[Prompt]]:
    """Prompts of each feature, strongest cell first: one Ray task a shard of the cache."""
    stops = np.array([int(record.facts["stop"]) for record in inputs.cache.members])
    shard_N = np.searchsorted(stops, wanted["cell"].to_numpy(), side="right")
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(prompts_of_shard)
    shared = ray.put(inputs)
    running = []
    for shard in np.unique(shard_N):
        rows = wanted[shard_N == shard]
        running.append(task.remote(shared, int(shard), rows["feature"].to_numpy(), rows["cell"].to_numpy()))
    made = {(prompt.feature, prompt.cell): prompt for prompts in running for prompt in ray.get(prompts)}
    found: dict[int, list[Prompt]] = defaultdict(list)
    for feature, cell in zip(wanted["feature"].tolist(), wanted["cell"].tolist(), strict=True):
        found[feature].append(made[feature, cell])
    return found


def feature_entries(
    inputs: FeatureInputs, tables: Mapping[str, pd.DataFrame], prompts: Mapping[int, Sequence[Prompt]]
) -> Iterator[dict[str, Any]]:
    """One entry per feature of a range, in order."""
    decoder_FD = autoencoder(inputs.sae_path, inputs.sae_fingerprint).W_dec.detach().float().numpy()
    names = inputs.genes["gene_name"].tolist()
    histograms = dict(iter(tables["histograms"].groupby("feature")))
    partners = dict(iter(tables["partners"].groupby("feature")))
    features = tables["features"]
    for feature, density in zip(features["feature"].tolist(), features["density"].tolist(), strict=True):
        direction_D = decoder_FD[feature]
        aligned = np.argsort(-np.abs(direction_D), kind="stable")[:ALIGNED_DIMENSIONS]
        histogram, partner = histograms.get(feature), partners.get(feature)
        yield {
            "feature_index": feature,
            "neuron_alignment_indices": aligned.tolist(),
            "neuron_alignment_values": _rounded(direction_D[aligned]),
            "neuron_alignment_l1": _rounded(np.abs(direction_D[aligned]) / np.abs(direction_D).sum()),
            "correlated_neurons_indices": [],
            "correlated_neurons_l1": [],
            "correlated_neurons_pearson": [],
            "correlated_features_indices": [] if partner is None else partner["partner"].tolist(),
            # The field is named for an L1 norm and holds cosines.
            "correlated_features_l1": [] if partner is None else _rounded(partner["cosine"]),
            "correlated_features_pearson": [] if partner is None else _rounded(partner["correlation"]),
            "neg_str": [],
            "neg_values": [],
            "pos_str": [],
            "pos_values": [],
            "frac_nonzero": density,
            "freq_hist_data_bar_values": []
            if histogram is None
            else _rounded((histogram["low"] + histogram["high"]) / 2),
            "freq_hist_data_bar_heights": [] if histogram is None else histogram["n_tokens"].tolist(),
            "logits_hist_data_bar_heights": [],
            "logits_hist_data_bar_values": [],
            "n_prompts_total": inputs.n_cells,
            "n_tokens_in_prompt": TOKENS_IN_PROMPT,
            "dataset": inputs.store.dataset_id,
            "decoder_weights_dist": [],
            "vector": _rounded(direction_D),
            "activations": [_activation(prompt, names) for prompt in prompts.get(feature, ())],
        }


def _activation(prompt: Prompt, names: Sequence[str]) -> dict[str, Any]:
    return {
        "bin_min": TOP_GROUP,
        "bin_max": float(prompt.value_W.max(initial=0.0)),
        "bin_contains": TOP_GROUP,
        "tokens": [names[gene] for gene in prompt.gene_W],
        "values": _rounded(prompt.value_W),
        "qualifying_token_index": prompt.strongest,
    }


def layer_of(hook: str) -> int:
    """Number of the block a hook point belongs to: 0 for the embedding, -1 for what comes after the last."""
    found = re.search(r"_(\d+)$", hook)
    if found:
        return int(found[1])
    return 0 if hook == "embed" else -1


def _rounded(values: Any) -> list[float]:
    """Five digits: more would only make the files longer."""
    return [float(f"{value:.5g}") for value in np.asarray(values)]
