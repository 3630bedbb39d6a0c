"""How large a cache will be, and whether there is room for it, before anything is written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np

from engine.streaming.inputs import SPECIAL_PER_CELL, Inputs
from engine.streaming.members import members_by_tokens
from engine.streaming.products.activations import ActivationProduct
from engine.streaming.recipe import Recipe
from storage.errors import InputError
from storage.locations import Location

# Cell, gene, position and class beside each token.
_BYTES_BESIDE_ACTIVATIONS = 11
_BYTES_OF_A_VALUE = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
# One scale of a token.
_BYTES_OF_A_SCALE = 4
# Header of a shard object.
_BYTES_OF_A_HEADER = 640
# Ids and names of the vocabulary, compressed.
_BYTES_PER_GENE = 14

# Blocks of cells looked at to learn how many of their counts become tokens.
_SAMPLES, _CELLS_A_SAMPLE = 8, 32


@dataclass(frozen=True)
class CacheSize:
    """tokens: per hook point. size: bytes of the whole cache. Both estimated from a sample of the cells."""

    tokens: int
    size: int


def cache_size(inputs: Inputs, product: ActivationProduct, recipe: Recipe) -> CacheSize:
    """The planned bound times the share of it that sampled cells really use."""
    bound = product.bound(inputs.store.nnz_per_cell[: inputs.n_cells], recipe.max_tokens, SPECIAL_PER_CELL)
    tokeniser = inputs.tokeniser(recipe.max_tokens, recipe.seed)
    special_ids = inputs.model.tokeniser.special_ids
    bounded = used = 0
    for start in np.unique(np.linspace(0, max(inputs.n_cells - _CELLS_A_SAMPLE, 0), _SAMPLES).astype(int)):
        stop = min(int(start) + _CELLS_A_SAMPLE, inputs.n_cells)
        tokens = tokeniser.tokens(inputs.store.read(int(start), stop))
        bounded += int(bound[start:stop].sum())
        used += len(product.kept_tokens(tokens, int(start), special_ids))
    n_tokens = int(bound.sum() * used / max(bounded, 1))
    bytes_per_token = inputs.model.d_model * _BYTES_OF_A_VALUE[product.precision] + _BYTES_BESIDE_ACTIVATIONS
    bytes_per_token += _BYTES_OF_A_SCALE if product.precision == "fp8" else 0
    n_shards = len(members_by_tokens(bound, product.shard_tokens))
    one_hook = n_tokens * bytes_per_token + n_shards * _BYTES_OF_A_HEADER
    gene_table = _BYTES_PER_GENE * len(inputs.model.tokeniser.gene_ids)
    return CacheSize(n_tokens, one_hook * len(product.hooks) + gene_table)


def require_room(output: Location, size: int) -> None:
    """Raise InputError unless `size` bytes fit at a local output. What is there already counts as room."""
    if output.local is None:
        return
    folder = output.local
    while not folder.exists():
        folder = folder.parent
    there = sum(output.list().values()) if output.local.exists() else 0
    free = shutil.disk_usage(folder).free
    if size > free + there:
        raise InputError(
            f"--output {output}: the cache will take about {gigabytes(size)} and {gigabytes(free)} are free "
            f"there. Give another place, fewer --hooks, --tokens-per-cell, or --max-cells; or train from the "
            "stream without a cache (train-sae --cells --model --hook)."
        )


def gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
