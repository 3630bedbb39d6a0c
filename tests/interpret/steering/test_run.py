"""Steering a store: the stream makes what `steer` makes of the same cells, and takes up what was begun."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from engine.interpret.inputs import EncodedInputs
from engine.interpret.steering import parse_edits, product, steer
from engine.interpret.steering.activity import label_directions
from engine.interpret.steering.product import EffectProduct
from engine.interpret.steering.reading import require_readable
from engine.interpret.steering.run import (
    Request,
    SurveyRequest,
    design_of,
    planned_design,
    survey_spans,
    survey_store,
    token_ids,
)
from engine.models import load, sae
from engine.models.sae.gene_means import save_gene_means
from engine.streaming.recipe import Recipe
from storage.errors import InputError
from storage.locations import Location
from tests.streaming.in_process import encode_here, hashes
from tests.streaming.inputs import geneformer_model, genes, small_counts, small_store, tahoe_model

__all__ = ["geneformer_model", "genes", "small_counts", "small_store", "tahoe_model"]

HOOK, CELLS = "resid_post_0", 12
RECIPE = Recipe(64, batch_tokens=512)
REQUEST = Request(parse_edits("5:+2,9:ablate"), doses=(1.0, 2.0), survey=SurveyRequest(CELLS))


@pytest.fixture(scope="module", params=["tahoe", "geneformer"])
def inputs(
    request: pytest.FixtureRequest,
    small_store: Path,
    tahoe_model: Path,
    geneformer_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> EncodedInputs:
    folder = tmp_path_factory.mktemp("steer") / "sae"
    sae.save(sae.create(32, 64, 16, seed=3, metadata={"hook_name": HOOK}), folder)
    model = tahoe_model if request.param == "tahoe" else geneformer_model
    return EncodedInputs.open(str(folder), str(small_store), str(model), label="cell_type", max_cells=CELLS)


def effects(inputs: EncodedInputs) -> EffectProduct:
    found = survey_store(inputs, REQUEST.survey, RECIPE, "cpu")
    design = design_of(inputs, REQUEST, found.activity, RECIPE.seed)
    labels = inputs.label.labels if inputs.label else ()
    return EffectProduct(
        inputs.sae_path, inputs.sae_fingerprint, {"asked": 1}, design, labels, label_directions(found)
    )


def test_the_stream_makes_what_is_made_in_memory(
    inputs: EncodedInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product, "FEWEST_TOKENS", 400)
    made = effects(inputs)
    output = tmp_path / "effects"
    snapshot = encode_here(inputs.stream, made, output, RECIPE)
    assert len(snapshot.members) > 1
    tokens = inputs.stream.tokeniser(64, 0).tokens(inputs.store.read(0, CELLS))
    assert inputs.label is not None
    labels = [inputs.label.labels[code] if code >= 0 else None for code in inputs.label.code_C[:CELLS]]
    expected = steer(
        load(inputs.stream.model.path),
        tokens,
        sae.load(inputs.sae_path),
        REQUEST.edits,
        hook=HOOK,
        doses=(1.0, 2.0),
        labels=labels,
        batch_tokens=512,
    )
    cells = pd.read_parquet(output / "cells").sort_values(["variant", "cell"], ignore_index=True)
    pd.testing.assert_frame_equal(pd.read_parquet(output / "variants.parquet"), expected.variants)
    wanted = expected.cells[expected.cells["cell"].isin(cells["cell"])].reset_index(drop=True)
    there = [name for name in wanted.columns if name in cells.columns]
    assert {"cosine", "shift", "moved"} < set(there)
    for name in there:
        np.testing.assert_allclose(cells[name], wanted[name], rtol=1e-2, atol=2e-3, err_msg=name)
    by_gene = pd.read_parquet(output / "genes.parquet")
    np.testing.assert_array_equal(by_gene["n_cells"], expected.genes["n_cells"])
    for name in expected.genes.filter(regex="^(base|change)_(expression|mvc|logit)").columns:
        np.testing.assert_allclose(by_gene[name], expected.genes[name], atol=2e-3, err_msg=name)
    body = json.loads((output / "metrics.json").read_text())
    (experiment,) = body["experiments"]
    assert experiment["edits"] == "5:+2,9:ablate"
    assert len(experiment["versions"]) == 8
    assert experiment["versions"][0]["cosine"]["low"] <= experiment["versions"][0]["cosine"]["mean"]
    assert 0 < len(experiment["targets"]) <= 20


def test_the_same_plan_gives_the_same_bytes_and_a_begun_run_keeps_its_design(
    inputs: EncodedInputs, tmp_path: Path
) -> None:
    made = effects(inputs)
    for name in ("one", "two"):
        encode_here(inputs.stream, made, tmp_path / name, RECIPE)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert planned_design(Location.of(tmp_path / "one"), {"asked": 1}) == made.design
    assert planned_design(Location.of(tmp_path / "one"), {"asked": 2}) is None
    assert planned_design(Location.of(tmp_path / "nowhere"), {"asked": 1}) is None


def test_genes_by_symbol_and_by_id(inputs: EncodedInputs) -> None:
    known = inputs.genes[inputs.genes["class"] == "gene"].iloc[:2]
    names = [str(known["gene_name"].iloc[0]), str(known["gene_id"].iloc[1])]
    assert token_ids(inputs, names, "targets") == tuple(known.index)
    with pytest.raises(InputError, match="--targets: the model knows no gene NOSUCH"):
        token_ids(inputs, ["NOSUCH"], "targets")
    limited = design_of(
        inputs,
        replace(REQUEST, targets=tuple(names), on_genes=(names[0],), separately=True, controls=()),
        survey_store(inputs, REQUEST.survey, RECIPE, "cpu").activity,
        0,
    )
    assert [experiment.targets for experiment in limited.experiments] == [tuple(known.index)] * 2
    assert {edit.token_ids for variant in limited.variants for edit in variant.edits} == {(known.index[0],)}


def test_gene_means_of_another_vocabulary_and_transcoders_are_refused(
    inputs: EncodedInputs, tmp_path: Path
) -> None:
    autoencoder = sae.load(inputs.sae_path)
    sae.save(autoencoder, tmp_path)
    residual = replace(inputs, sae_path=str(tmp_path))
    for n_ids in (len(inputs.genes), 3):
        save_gene_means(torch.zeros(n_ids, 32), tmp_path)
        if n_ids == 3:
            with pytest.raises(InputError, match=r"gene means of shape \(3, 32\)"):
                require_readable(residual)
        else:
            require_readable(residual)
    transcoder = sae.SAE(sae.SAEConfig("standard", 32, 64, apply_b_dec_to_input=False, d_out=32))
    sae.save(transcoder, tmp_path)
    with pytest.raises(InputError, match="is a transcoder"):
        require_readable(residual)


@pytest.mark.parametrize(("n_cells", "wanted"), [(2700, 512), (20, 512), (1, 1), (17, 16), (100, 99)])
def test_surveyed_cells_are_spread(n_cells: int, wanted: int) -> None:
    spans = survey_spans(n_cells, wanted)
    assert sum(stop - start for start, stop in spans) == min(n_cells, wanted)
    assert all(0 <= start < stop <= n_cells for start, stop in spans)
    assert spans[-1][0] >= n_cells * (len(spans) - 1) // len(spans)
