"""Perturbing real cells through the stream: what tokenising the changed counts one by one gives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch.nn import functional as F

from engine import models
from engine.interpret.perturbing import States, product
from engine.interpret.perturbing.goal import mean_embedding, spread
from engine.interpret.perturbing.product import PerturbedCellsProduct
from engine.interpret.perturbing.run import Request, chosen_cells, perturbations_of, recipe_to_read
from engine.models import Encoder, Tokens
from engine.streaming.inputs import Inputs
from engine.streaming.recipe import Recipe
from storage.errors import InputError
from storage.ingest import IngestOptions, ingest
from tests.streaming.in_process import encode_here
from tests.streaming.inputs import geneformer_model, genes, small_counts, small_store, tahoe_model

__all__ = ["geneformer_model", "genes", "small_counts", "small_store", "tahoe_model"]

CELLS, LIMIT = 24, 128
GENES = ("MALAT1", "B2M", "CD74", "LYZ", "NKG7")
RECIPE = Recipe(LIMIT, batch_tokens=700)


@pytest.fixture(scope="module")
def inputs(small_store: Path, geneformer_model: Path) -> Inputs:
    return Inputs.open(str(small_store), str(geneformer_model), CELLS)


def product_of(inputs: Inputs, request: Request) -> PerturbedCellsProduct:
    chosen_C, goal_cells = chosen_cells(inputs, request)
    model = inputs.model
    layer, pool = model.default_layer, model.default_pool
    return PerturbedCellsProduct(
        {"asked": 1},
        perturbations_of(inputs, request),
        chosen_C,
        LIMIT,
        RECIPE.batch_tokens,
        layer,
        pool,
        None if goal_cells is None else mean_embedding(inputs, goal_cells, RECIPE, layer, pool, "cpu"),
    )


def embedding_without(encoder: Encoder, inputs: Inputs, cell: int, column: int | None) -> torch.Tensor:
    """Of one cell whose counts of one gene are zero, tokenised alone."""
    block = inputs.store.read(cell, cell + 1)
    counts = block.counts.copy()
    counts[block.indices == (-1 if column is None else column)] = 0
    tokens: Tokens = encoder.tokeniser.tokenise(
        block.indptr, block.indices, counts, inputs.match, max_tokens=LIMIT
    )
    return encoder.embed(tokens)[0]


def test_deletions_are_what_tokenising_one_by_one_gives(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product, "FEWEST_TOKENS", 1500)
    made = product_of(inputs, Request("delete", GENES, states=States("cell_type", goal_label(inputs))))
    assert made.goal_D is not None
    snapshot = encode_here(inputs, made, tmp_path / "out", recipe_to_read(inputs, made, RECIPE))
    assert len(snapshot.members) > 1
    pairs = pd.read_parquet(tmp_path / "out" / "pairs")
    encoder = models.load(inputs.model.path)
    symbols = inputs.store.genes["gene_name"].astype(str).tolist()
    goal_D, expected = torch.as_tensor(made.goal_D), []
    for cell in np.flatnonzero(made.chosen_C):
        base_D = embedding_without(encoder, inputs, cell, None)
        for number, gene in enumerate(GENES):
            column = symbols.index(gene)
            if column not in inputs.store.read(cell, cell + 1).indices:
                continue
            changed_D = embedding_without(encoder, inputs, cell, column)
            nearer = [F.cosine_similarity(e_D, goal_D, dim=0).item() for e_D in (changed_D, base_D)]
            shift = 1 - F.cosine_similarity(base_D, changed_D, dim=0).item()
            distance = (base_D - changed_D).norm().item()
            expected.append((number, cell, shift, distance, nearer[0] - nearer[1]))
    frame = pd.DataFrame(expected, columns=["perturbation", "cell", "shift", "distance", "towards_goal"])
    frame = frame.sort_values(["cell", "perturbation"])
    assert len(frame) > 40
    # A gene ranked below what the model sees can be deleted without a change.
    np.testing.assert_array_equal(
        pairs[["perturbation", "cell"]], seen(frame, pairs)[["perturbation", "cell"]]
    )
    for metric in made.metrics:
        np.testing.assert_allclose(pairs[metric], seen(frame, pairs)[metric], atol=2e-5)
    unseen = frame.merge(pairs[["perturbation", "cell"]], how="left", indicator=True)
    assert unseen.loc[unseen["_merge"] == "left_only", "distance"].max() < 1e-4
    body = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert body["n_pairs"] == len(pairs)
    table = pd.read_parquet(tmp_path / "out" / "perturbations.parquet")
    assert table["gene_names"].tolist() == list(GENES)
    assert table["n_cells"].sum() == len(pairs)


def seen(frame: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """The rows of `frame` whose pairs the run has, in its order."""
    return pairs[["perturbation", "cell"]].merge(frame, how="inner")


def goal_label(inputs: Inputs) -> str:
    return str(inputs.store.obs(["cell_type"])["cell_type"].iloc[:CELLS].mode()[0])


def test_overexpression_reaches_cells_without_the_gene(
    small_store: Path, tahoe_model: Path, tmp_path: Path
) -> None:
    inputs = Inputs.open(str(small_store), str(tahoe_model), 4)
    together = product_of(inputs, Request("overexpress", ("LYZ", "NKG7"), together=True))
    encode_here(inputs, together, tmp_path / "out", recipe_to_read(inputs, together, RECIPE))
    pairs = pd.read_parquet(tmp_path / "out" / "pairs")
    assert pairs["cell"].tolist() == [0, 1, 2, 3]
    assert (pairs["shift"] > 0).all()


def test_every_known_gene(inputs: Inputs) -> None:
    every = perturbations_of(inputs, Request("delete", None))
    assert len(every) == inputs.match.n_matched
    assert all(len(each.genes) == 1 for each in every)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("delete", ("NOSUCH",)), "knows no gene NOSUCH"),
        (Request("delete", None, together=True), "--together needs --genes"),
        (Request("delete", ("B2M",), states=States("cell_type", "nobody")), "--goal nobody"),
        (Request("delete", ("B2M",), states=States("no_column", "x")), "no such obs column"),
    ],
)
def test_what_does_not_fit_is_refused(inputs: Inputs, request_: Request, message: str) -> None:
    with pytest.raises(InputError, match=message):
        product_of(inputs, request_)


def test_cells_of_a_goal_are_spread() -> None:
    assert spread(np.arange(10), 20).tolist() == list(range(10))
    assert spread(np.arange(100), 4).tolist() == [0, 25, 50, 75]


def test_a_drug_is_another_drug_token_in_the_same_cell(shared: Path, tmp_path: Path) -> None:
    """The official 3B layout at a small size, with its table of drugs."""
    model = shared / "golden" / "tahoe" / "B" / "model"
    names = [name for name in json.loads((model / "vocab.json").read_text()) if name.startswith("ENSG")]
    counts = np.random.default_rng(0).poisson(1.0, (6, len(names))).astype(np.float32)
    cells = anndata.AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=names))
    cells.write_h5ad(tmp_path / "cells.h5ad")
    ingest([str(tmp_path / "cells.h5ad")], str(tmp_path / "store"), IngestOptions(gene_id_key="index"))
    inputs = Inputs.open(str(tmp_path / "store"), str(model), drug_token=True)
    request = Request("drug", None, drugs=("Trametinib", "DMSO_TF"), base_drug="DMSO_TF")
    made = replace(
        product_of(inputs, request), base_drug=inputs.model.tokeniser.drugs["DMSO_TF"], drugs=request.drugs
    )
    encode_here(inputs, made, tmp_path / "out", RECIPE)
    table = pd.read_parquet(tmp_path / "out" / "perturbations.parquet")
    assert table[["kind", "drug", "gene_names", "n_cells"]].values.tolist() == [
        ["drug", "Trametinib", "", 6],
        ["drug", "DMSO_TF", "", 6],
    ]
    assert table["shift"][1] == pytest.approx(0, abs=1e-6)

    encoder = models.load(model, drug_token=True)
    block = inputs.store.read(0, 6)
    tokens = encoder.tokeniser.tokenise(
        block.indptr, block.indices, block.counts, inputs.match, max_tokens=LIMIT
    )
    rows = [torch.as_tensor(encoder.tokeniser.drug_ids([name] * 6)) for name in request.drugs]
    treated, control = (encoder.embed(tokens, made.layer, made.pool, drug_C=drug_C) for drug_C in rows)
    expected = (1 - F.cosine_similarity(treated, control)).mean()
    assert table["shift"][0] == pytest.approx(float(expected), abs=1e-5)
    assert table["shift"][0] > 1e-4
    with pytest.raises(InputError, match="no such drug"):
        perturbations_of(inputs, Request("drug", None, drugs=("sugar",)))
