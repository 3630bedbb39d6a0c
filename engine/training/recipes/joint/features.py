"""Features of locked towers, computed once before the first step and kept beside the model.

OUTPUT/features/cells    embeddings dataset of the cell store, as `embed` makes it
OUTPUT/features/texts    embeddings dataset of the distinct captions, in their order
OUTPUT/features/weights.npz    weights of samples, where they are asked for

Legend: D width of features.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
import torch

from engine import ray_session
from engine.captions import Captions
from engine.models import joint
from engine.models.joint.model import in_batches
from engine.streaming.inputs import Inputs
from engine.streaming.members import fixed_members
from engine.streaming.products.embeddings import EmbeddingProduct
from engine.streaming.recipe import Recipe as Encoding
from engine.streaming.recipe import Workers
from engine.streaming.run import Progress, encode
from engine.tasks import run_tasks
from engine.training.recipes.joint.plan import CELLS, TEXTS, WEIGHTS
from engine.training.recipes.joint.recipe import JointRecipe
from engine.training.recipes.joint.weights import radius_weights, write_weights
from storage import embeddings
from storage.cells import CellStore
from storage.checkpoints import local_copy
from storage.commits import Dataset, MemberPlan
from storage.embeddings import Embeddings
from storage.errors import InputError
from storage.locations import Location

TEXTS_PER_MEMBER = 4096
# From so many members on, starting Ray and a tower in every worker is worth it: minutes of one core.
MEMBERS_FOR_TASKS = 4
TASKS_AT_ONCE = 256


def make_features(
    recipe: JointRecipe, output: Location, *, address: str | None = None, report: Progress | None = None
) -> None:
    """Whatever of these the recipe reads and is not there yet. Resumes; raises what `encode` raises."""
    if recipe.cell_features == str(output / CELLS):
        _make_cell_features(recipe, output / CELLS, address, report)
    captions = recipe.captions.read(CellStore.open(recipe.cells), recipe.n_cells)
    if recipe.text_features:
        make_text_features(recipe, captions, output / TEXTS, address=address, report=report)
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


def make_text_features(
    recipe: JointRecipe,
    captions: Captions,
    location: Location,
    *,
    address: str | None = None,
    report: Progress | None = None,
) -> None:
    """The text tower's features of all captions; goes on where it was interrupted.

    Many captions are read in tasks of Ray, each with a tower of its own; few in this process.
    """
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
    total, pending = len(captions.texts), dataset.pending()
    done = total - sum(int(member.facts["stop"]) - int(member.facts["start"]) for member in pending)

    def ended(texts: int) -> None:
        nonlocal done
        done += texts
        if report is not None:
            report(done, total, "captions", "")

    calls = [
        (
            recipe.text_tower,
            recipe.max_text_tokens,
            dataset,
            member,
            captions.texts[int(member.facts["start"]) : int(member.facts["stop"])],
        )
        for member in pending
    ]
    if len(calls) >= MEMBERS_FOR_TASKS:
        with ray_session.connect(address):
            run_tasks(
                make_text_member,
                calls,
                at_once=TASKS_AT_ONCE,
                ended=ended,
                gpus=gpu_share(),
            )
    else:
        for call in calls:
            ended(make_text_member(*call))
        _tower.cache_clear()
    obs = pd.DataFrame({"caption": captions.texts}, index=[str(n) for n in range(total)])
    embeddings.finish_embeddings(dataset, obs)


def make_text_member(
    text_tower: str, max_tokens: int, dataset: Dataset, member: MemberPlan, texts: list[str]
) -> int:
    """Read and commit one member of the captions' features; how many captions it has."""
    f_BD = _features_of(_tower(text_tower, max_tokens), texts)
    writer = dataset.member(member.key)
    chunk = embeddings.embedding_chunk(f_BD, member.key, int(member.facts["start"]))
    writer.put(embeddings.chunk_name(member.key), chunk)
    writer.commit(member.facts)
    return len(texts)


@lru_cache(maxsize=1)
def _tower(text_tower: str, max_tokens: int) -> joint.TextTower:
    """Of this process: a worker of Ray keeps it for all of its members."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return joint.load_text_tower(local_copy(text_tower), max_tokens=max_tokens).to(device).eval()


def gpu_share() -> float:
    """What of a GPU a task asks for: one, where the cluster has any."""
    import ray

    return 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0


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
