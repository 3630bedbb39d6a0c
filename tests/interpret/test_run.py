"""The pass on Ray equals the pass in one piece."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.interpret import features
from engine.interpret.cell_activations import peak_activations
from engine.interpret.inputs import FeatureInputs
from engine.interpret.run import FeatureOptions, explain, observe_member, plan_pass
from engine.interpret.tables import tabulate
from engine.models import sae
from storage.features import FeatureTables
from storage.locations import Location
from tests.interpret.inputs import CELLS, FEATURES, HOOK, Place

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def inputs(place: Place) -> FeatureInputs:
    return FeatureInputs.open(str(place.sae), str(place.cache), str(place.cells), label="cell_type")


def test_tables_equal_a_pass_in_this_process(inputs: FeatureInputs, tmp_path: Path) -> None:
    done = explain(inputs, FeatureOptions(5, 7), Location.of(tmp_path / "out"))
    plan = plan_pass(inputs, 7)
    states = [observe_member(inputs, plan, record.key)[0] for record in reversed(inputs.cache.members)]
    expected = tabulate(features.merge(states), inputs.names(), 5)
    found = FeatureTables.open(str(tmp_path / "out"))
    pd.testing.assert_frame_equal(found.features, expected.features)
    pd.testing.assert_frame_equal(found.top_genes, expected.top_genes)
    pd.testing.assert_frame_equal(found.top_cells, expected.top_cells)
    pd.testing.assert_frame_equal(found.labels, expected.labels, check_categorical=False)
    assert done.did_work
    assert done.snapshot.facts["n_cells"] == CELLS
    for name in ("feature_gene_associations.json", "feature_cell_associations.json"):
        assert len(json.loads(found.product(name))) == FEATURES


def test_a_second_run_does_nothing(inputs: FeatureInputs, tmp_path: Path) -> None:
    output = Location.of(tmp_path / "out")
    first = explain(inputs, FeatureOptions(3, 3), output)
    second = explain(inputs, FeatureOptions(3, 3), output)
    assert not second.did_work
    assert second.snapshot.dataset_id == first.snapshot.dataset_id


def test_first_cells_only(place: Place, tmp_path: Path) -> None:
    inputs = FeatureInputs.open(str(place.sae), str(place.cache), str(place.cells), max_cells=25)
    explain(inputs, FeatureOptions(3, 100), Location.of(tmp_path / "out"))
    found = FeatureTables.open(str(tmp_path / "out"))
    assert found.facts["n_cells"] == 25
    assert found.top_cells["cell"].max() == 24


def test_peaks_of_every_cell(inputs: FeatureInputs) -> None:
    peak_CF = peak_activations(inputs)
    expected_CF = np.zeros((CELLS, FEATURES), np.float32)
    autoencoder = sae.load(inputs.sae_path)
    for record in inputs.cache.members:
        tokens = inputs.cache.read(HOOK, record.key)
        kept = inputs.gene_tokens[tokens.gene]
        a_TF = autoencoder.encode(tokens.acts.float()).detach().numpy()
        np.maximum.at(expected_CF, tokens.cell[kept], a_TF[kept])
    np.testing.assert_allclose(peak_CF, expected_CF, rtol=1e-5, atol=1e-6)
