"""The pass on Ray equals the pass in one piece, whatever it is cut into and however often it is killed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.interpret import cached_pass, reduction
from engine.interpret.cached_pass import CachedPass, observe_shards
from engine.interpret.cell_activations import peak_activations
from engine.interpret.gene_ranking import TableOptions
from engine.interpret.inputs import FeatureInputs
from engine.interpret.run import STATES, FeatureOptions, explain, plan_pass
from engine.interpret.state import merge
from engine.interpret.tables import tabulate
from engine.models import sae
from storage.commits import Dataset
from storage.features import TABLES, FeatureTables
from storage.locations import Location
from tests.interpret.inputs import CELLS, FEATURES, HOOK, Place

pytestmark = pytest.mark.usefixtures("ray_cluster")

OPTIONS = FeatureOptions(TableOptions(top_genes=5, partners=4), top_cells=7)


@pytest.fixture
def inputs(place: Place) -> FeatureInputs:
    return FeatureInputs.open(str(place.sae), str(place.cache), str(place.cells), label="cell_type")


def made(inputs: FeatureInputs, options: FeatureOptions, output: Path) -> FeatureTables:
    assert explain(inputs, CachedPass(inputs), options, Location.of(output)).did_work
    return FeatureTables.open(str(output))


def assert_same_tables(found: FeatureTables, expected: FeatureTables) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(found.table(name), expected.table(name), check_exact=True)
    assert found.product("feature_gene_associations.json") == expected.product(
        "feature_gene_associations.json"
    )
    assert found.facts == expected.facts


def test_tables_equal_a_pass_in_this_process(
    inputs: FeatureInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduction, "LEAF_MEMBERS", 1)
    monkeypatch.setattr(reduction, "FAN_IN", 2)
    found = made(inputs, OPTIONS, tmp_path / "out")
    source = CachedPass(inputs)
    plan = plan_pass(inputs, source, OPTIONS, Location.of(tmp_path / "nowhere"))
    states = [observe_shards(inputs, plan, [number]) for number in reversed(range(3))]
    expected = tabulate(merge(states), inputs.names(), OPTIONS.tables)
    for name in TABLES:
        pd.testing.assert_frame_equal(found.table(name), getattr(expected, name), check_exact=True)
    assert found.facts["n_cells"] == CELLS
    assert found.facts["n_sampled_tokens"] == found.facts["n_gene_tokens"]
    assert found.genes["n_tokens"].sum() == found.facts["n_gene_tokens"]
    for name in ("feature_gene_associations.json", "feature_cell_associations.json"):
        assert len(json.loads(found.product(name))) == FEATURES


def test_ranges_and_members_do_not_show(
    inputs: FeatureInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_presence = {**vars(OPTIONS), "tables": TableOptions(top_genes=5, partners=4, score="presence")}
    one = made(inputs, FeatureOptions(**by_presence), tmp_path / "one")
    monkeypatch.setattr(cached_pass, "MEMBERS_WANTED", 1)
    four = made(inputs, FeatureOptions(**{**by_presence, "ranges": 4}), tmp_path / "four")
    assert len(one.top_genes) > FEATURES
    assert one.ranges == ["00000"]
    assert len(four.ranges) == 4
    assert_same_tables(four, one)
    some = four.table("features", four.ranges[1:3])
    pd.testing.assert_frame_equal(some, one.features[6:18].reset_index(drop=True))


def test_an_interrupted_pass_goes_on_where_it_was(
    inputs: FeatureInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = made(inputs, OPTIONS, tmp_path / "whole")
    output = Location.of(tmp_path / "out")
    looked_at: list[int] = []

    def stop_after_one_member(done: int, total: int, unit: str) -> None:
        looked_at.append(done)
        if unit == "tokens" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain(inputs, CachedPass(inputs), OPTIONS, output, report=stop_after_one_member)
    states = Dataset.open(output / STATES)
    left = len(states.pending())
    assert 0 <= left < 3

    def stop_before_tables(done: int, total: int, unit: str) -> None:
        looked_at.append(done)
        if unit == "ranges":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain(inputs, CachedPass(inputs), OPTIONS, output, report=stop_before_tables)
    assert not states.pending()
    # Nothing may be looked at again: the activations would be other ones.
    monkeypatch.setattr(cached_pass, "_observe_and_commit", None)
    done = explain(inputs, CachedPass(inputs), OPTIONS, output)
    assert done.spent.tokens == 0
    assert_same_tables(FeatureTables.open(output), expected)
    assert not (tmp_path / "out" / STATES).exists()


def test_a_second_run_does_nothing(inputs: FeatureInputs, tmp_path: Path) -> None:
    output = Location.of(tmp_path / "out")
    first = explain(inputs, CachedPass(inputs), OPTIONS, output)
    second = explain(inputs, CachedPass(inputs), OPTIONS, output)
    assert not second.did_work
    assert second.snapshot.dataset_id == first.snapshot.dataset_id


def test_first_cells_only(place: Place, tmp_path: Path) -> None:
    inputs = FeatureInputs.open(str(place.sae), str(place.cache), str(place.cells), max_cells=25)
    options = FeatureOptions(TableOptions(3, partners=0), sae_genomics=False)
    found = made(inputs, options, tmp_path / "out")
    assert found.facts["n_cells"] == 25
    assert found.facts["n_sampled_tokens"] == 0
    assert found.top_cells["cell"].max() == 24
    assert found.table("partners").empty
    assert not (tmp_path / "out" / "feature_gene_associations.json").exists()


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
