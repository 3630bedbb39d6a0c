"""Features of locked towers, computed once before the first step and kept beside the model.

OUTPUT/features/cells    embeddings dataset of the cell store, as `embed` makes it
OUTPUT/features/texts    embeddings dataset of the distinct captions, in their order
OUTPUT/features/weights.npz    weights of samples, where they are asked for

Legend: D width of features.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from engine.captions import Captions
from engine.models import joint
from engine.models.joint.model import in_batches
from engine.streaming.inputs import Inputs
from engine.streaming.members import fixed_members
from engine.streaming.products.embeddings import EmbeddingProduct
from engine.streaming.recipe import Recipe as Encoding
from engine.streaming.recipe import Workers
from engine.streaming.run import Progress, encode
from engine.training.recipes.joint.plan import CELLS, TEXTS, WEIGHTS
from engine.training.recipes.joint.recipe import JointRecipe
from engine.training.recipes.joint.weights import radius_weights, write_weights
from storage import embeddings
from storage.cells import CellStore
from storage.checkpoints import local_copy
from storage.commits import Dataset
from storage.embeddings import Embeddings
from storage.errors import InputError
from storage.locations import Location

TEXTS_PER_MEMBER = 4096


def make_features(
    recipe: JointRecipe, output: Location, *, address: str | None = None, report: Progress | None = None
) -> None:
    """Whatever of these the recipe reads and is not there yet. Resumes; raises what `encode` raises."""
    if recipe.cell_features == str(output / CELLS):
        _make_cell_features(recipe, output / CELLS, address, report)
    captions = recipe.captions.read(CellStore.open(recipe.cells), recipe.n_cells)
    if recipe.text_features:
        make_text_features(recipe, captions, output / TEXTS)
    if recipe.weights and not output.exists(WEIGHTS):
        write_weights(output, WEIGHTS, _weights(recipe, captions))


def require_features(recipe: JointRecipe, path: str) -> None:
    """Raises InputError unless the embeddings at `path` are what the cell tower makes of these cells."""
    found = Embeddings.open(path)
    inputs = Inputs.open(recipe.cells, recipe.cell_tower, recipe.n_cells)
    product = _product(recipe, inputs)
    wanted = {
        "cells": recipe.dataset_id,
        "model": inputs.model.fingerprint,
        product.kind: dict(product.lineage()),
    }
    wrong = [name for name, value in wanted.items() if found.lineage.get(name) != value]
    if wrong or found.n_cells < recipe.n_cells:
        raise InputError(
            f"--cell-features {path}: not the features of this store by this tower ({', '.join(wrong)} "
            f"differ; {found.n_cells:,} cells, {recipe.n_cells:,} wanted). Make them with: syncytium embed "
            f"--cells {recipe.cells} --model {recipe.cell_tower}, or leave the flag out."
        )


def make_text_features(recipe: JointRecipe, captions: Captions, location: Location) -> None:
    """The text tower's features of all captions; goes on where it was interrupted."""
    dataset = Dataset.plan(
        location,
        kind=embeddings.KIND,
        lineage={
            "captions": recipe.captions_id,
            "model": recipe.text_fingerprint,
            "max_text_tokens": recipe.max_text_tokens,
        },
        members=fixed_members(len(captions.texts), TEXTS_PER_MEMBER),
    )
    pending = dataset.pending()
    if pending:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tower = joint.load_text_tower(local_copy(recipe.text_tower), max_tokens=recipe.max_text_tokens)
        tower.to(device)
        for member in pending:
            start, stop = int(member.facts["start"]), int(member.facts["stop"])
            f_BD = _features_of(tower, captions.texts[start:stop])
            writer = dataset.member(member.key)
            writer.put(embeddings.chunk_name(member.key), embeddings.embedding_chunk(f_BD, member.key, start))
            writer.commit(member.facts)
    obs = pd.DataFrame({"caption": captions.texts}, index=[str(n) for n in range(len(captions.texts))])
    embeddings.finish_embeddings(dataset, obs)


@torch.no_grad()
def _features_of(tower: joint.TextTower, texts: list[str]) -> np.ndarray:
    f_BD = in_batches(texts, lambda batch: tower(tower.tokenise(batch)), lambda found_BD: found_BD)
    return f_BD.cpu().numpy()


def _make_cell_features(
    recipe: JointRecipe, location: Location, address: str | None, report: Progress | None
) -> None:
    inputs = Inputs.open(recipe.cells, recipe.cell_tower, recipe.n_cells)
    encode(
        inputs,
        _product(recipe, inputs),
        location,
        recipe=Encoding(inputs.model.token_limit(recipe.max_tokens), seed=recipe.token_seed),
        workers=Workers(address),
        report=report,
    )


def _product(recipe: JointRecipe, inputs: Inputs) -> EmbeddingProduct:
    return EmbeddingProduct(
        inputs.model.layer(recipe.cell_layer), recipe.cell_pool or inputs.model.default_pool
    )


def _weights(recipe: JointRecipe, captions: Captions) -> dict[str, np.ndarray]:
    """Of each cell by the features of its cell, and by those of its caption."""
    weights = {}
    if recipe.cell_features:
        features = Embeddings.open(recipe.cell_features)
        weights["cell"] = radius_weights(features.read(0, recipe.n_cells))
    if recipe.text_features:
        of_text = radius_weights(Embeddings.open(recipe.text_features).X)
        weights["text"] = np.where(captions.of_cell_C < 0, 0, of_text[captions.of_cell_C]).astype(np.float32)
    return weights
