"""Dashboards: prompts are the genes of top cells in rank order, with the activations of the cache."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.interpret import neuronpedia, prompts
from engine.interpret.cached_pass import CachedPass
from engine.interpret.expression import Expression
from engine.interpret.gene_ranking import TableOptions
from engine.interpret.inputs import FeatureInputs
from engine.interpret.neuronpedia import Export, export, layer_of
from engine.interpret.prompts import prompts_of_shard
from engine.interpret.run import FeatureOptions, explain
from engine.models import sae
from storage.errors import LineageMismatch
from storage.features import FeatureTables
from storage.locations import Location
from tests.interpret.inputs import FEATURES, HOOK, Place

# sae_dashboard/neuronpedia/neuronpedia_dashboard.py: what its classes take, and `vector`.
FIELDS = {
    *("feature_index", "frac_nonzero", "n_prompts_total", "n_tokens_in_prompt", "dataset", "activations"),
    *(f"neuron_alignment_{part}" for part in ("indices", "values", "l1")),
    *(f"correlated_{of}_{part}" for of in ("neurons", "features") for part in ("indices", "l1", "pearson")),
    *(f"{sign}_{part}" for sign in ("neg", "pos") for part in ("str", "values")),
    *(f"{of}_hist_data_bar_{part}" for of in ("freq", "logits") for part in ("values", "heights")),
    *("decoder_weights_dist", "vector"),
}
ACTIVATION_FIELDS = {"bin_min", "bin_max", "bin_contains", "tokens", "values", "qualifying_token_index"}


@pytest.fixture
def inputs(place: Place) -> FeatureInputs:
    return FeatureInputs.open(str(place.sae), str(place.cache), str(place.cells))


@pytest.mark.parametrize("window", [6, 128])
def test_prompts_show_a_cell_in_rank_order(
    inputs: FeatureInputs, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(prompts, "TOKENS_IN_PROMPT", window)
    tokens = inputs.cache.read(HOOK, inputs.cache.members[1].key)
    a_TF = sae.load(inputs.sae_path).encode(tokens.acts.float()).detach().numpy()
    lookup = Expression.by_gene_id(inputs.store, inputs.genes["gene_id"].tolist())
    wanted = [(int(feature), cell) for cell in (33, 21) for feature in a_TF.sum(axis=0).argsort()[-3:]]
    features, cells = (np.array(column) for column in zip(*wanted, strict=True))
    found = prompts_of_shard(inputs, 1, features, cells)
    assert [(prompt.feature, prompt.cell) for prompt in found] == wanted
    for prompt in found:
        rows = np.flatnonzero((tokens.cell == prompt.cell) & inputs.gene_tokens[tokens.gene])
        expression = lookup(tokens.cell[rows], tokens.gene[rows])
        rows = rows[np.lexsort((tokens.pos[rows], -expression))]
        value = a_TF[rows, prompt.feature]
        assert len(prompt.gene_W) == min(window, len(rows))
        begin = next(
            start
            for start in range(len(rows))
            if (tokens.gene[rows[start : start + len(prompt.gene_W)]] == prompt.gene_W).all()
        )
        np.testing.assert_allclose(prompt.value_W, value[begin : begin + len(prompt.gene_W)], rtol=1e-5)
        assert prompt.value_W[prompt.strongest] == pytest.approx(value.max(), rel=1e-5)


@pytest.mark.usefixtures("ray_cluster")
def test_batches_hold_every_feature_in_the_fields_of_saedashboard(
    inputs: FeatureInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuronpedia, "FEATURES_IN_BATCH", 7)
    output = Location.of(tmp_path / "out")
    options = FeatureOptions(TableOptions(top_genes=3), ranges=2)
    explain(inputs, CachedPass(inputs), options, output)
    tables = FeatureTables.open(output)
    snapshot = export(inputs, tables, Export("tahoe", "mine", cells=4), output)
    batches = [json.loads(snapshot.read(name)) for name in sorted(snapshot.all_objects)]
    assert {len(batch["features"]) for batch in batches} == {7, 5}
    assert {(batch["model_id"], batch["layer"], batch["sae_set"]) for batch in batches} == {
        ("tahoe", 1, "mine")
    }
    entries = [entry for batch in batches for entry in batch["features"]]
    assert [entry["feature_index"] for entry in entries] == list(range(FEATURES))
    for entry, row in zip(entries, tables.features.itertuples(), strict=True):
        assert set(entry) == FIELDS
        assert entry["frac_nonzero"] == row.density
        assert sum(entry["freq_hist_data_bar_heights"]) == row.n_tokens
        assert len(entry["activations"]) == min(4, row.n_cells)
        peaks = [
            activation["values"][activation["qualifying_token_index"]] for activation in entry["activations"]
        ]
        assert peaks == sorted(peaks, reverse=True)
        if peaks:
            assert peaks[0] == pytest.approx(row.max_activation, rel=1e-4)
            assert set(entry["activations"][0]) == ACTIVATION_FIELDS
            assert all(token.startswith("G") for token in entry["activations"][0]["tokens"])
    assert export(inputs, tables, Export("tahoe", "mine", cells=4), output).dataset_id == snapshot.dataset_id
    with pytest.raises(LineageMismatch):
        export(inputs, tables, Export("other", "mine", cells=4), output)


def test_layers_of_hook_points() -> None:
    assert [layer_of(hook) for hook in ("resid_post_11", "embed", "final")] == [11, 0, -1]
