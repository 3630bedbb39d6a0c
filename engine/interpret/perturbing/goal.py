"""States that cells could be moved between: mean embeddings of the cells of a label.

Legend: C cells, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.streaming.inputs import Inputs
from engine.streaming.packing import pack
from engine.streaming.recipe import Recipe
from engine.streaming.replicas import EncoderSpec, load_encoder


@dataclass(frozen=True)
class States:
    """From where to where. label: obs column. start: value whose cells are perturbed; None for all cells
    that are not in `goal`.
    """

    label: str
    goal: str
    start: str | None = None


def spread(cells: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """At most so many of the cells, evenly spread, since stores are often sorted."""
    if len(cells) <= most:
        return cells
    return cells[np.arange(most) * len(cells) // most]


def mean_embedding_on_ray(
    inputs: Inputs,
    cells: npt.NDArray[np.int64],
    recipe: Recipe,
    layer: int,
    pool: str,
    drug: int | None = None,
) -> npt.NDArray[np.float32]:
    """`mean_embedding` where an encoder has room. Called inside a Ray session."""
    import ray

    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(mean_embedding)
    device = "cuda" if gpus else "cpu"
    found: npt.NDArray[np.float32] = ray.get(task.remote(inputs, cells, recipe, layer, pool, device, drug))
    return found


def mean_embedding(
    inputs: Inputs,
    cells: npt.NDArray[np.int64],
    recipe: Recipe,
    layer: int,
    pool: str,
    device: str,
    drug: int | None = None,
) -> npt.NDArray[np.float32]:
    """Mean over cells of their unperturbed embeddings, float32 [D]; cells without tokens are left out.

    drug: row of the drug that they are taken to have been given, of models with a drug token.
    """
    spec = EncoderSpec(
        inputs.model.path,
        recipe.precision,
        recipe.batch_tokens,
        1,
        device,
        drug_token=inputs.model.drug_token,
    )
    encoder: Any = load_encoder(spec)
    tokenise = inputs.tokeniser(recipe.max_tokens, recipe.seed)
    total_D, n_cells = np.zeros(inputs.model.d_model), 0
    for run in np.split(cells, np.flatnonzero(np.diff(cells) > 1) + 1):
        tokens = tokenise.tokens(inputs.store.read(int(run[0]), int(run[-1]) + 1))
        for batch in pack(tokens.lengths, recipe.batch_tokens):
            drug_C = None if drug is None else torch.full((len(batch),), drug, device=device)
            packed = tokens.select(batch).to_torch(device)
            e_CD = encoder.embed(packed, layer, pool, drug_C=drug_C).float().cpu().numpy()
            e_CD = e_CD[np.isfinite(e_CD).all(1)]
            total_D += e_CD.sum(0, dtype=np.float64)
            n_cells += len(e_CD)
    return (total_D / max(n_cells, 1)).astype(np.float32)
