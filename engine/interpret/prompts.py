"""Cells as prompts: the genes around a feature's strongest token, in the order of their expression.

Shape legend: T tokens of the wanted cells, W tokens of a prompt.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from engine.interpret.codes import sparse_codes
from engine.interpret.expression import Expression
from engine.interpret.inputs import FeatureInputs
from engine.interpret.passes import autoencoder, gene_means
from engine.interpret.runs import Float32, Int64

TOKENS_IN_PROMPT = 128
"""Genes of a prompt: what SAEDashboard shows of a text."""


class Prompt(NamedTuple):
    """What one feature does on the genes of one cell."""

    feature: int
    cell: int
    gene_W: Int64
    """Token ids, the most expressed gene first."""
    value_W: Float32
    strongest: int
    """Place of the strongest token among them."""


def prompts_of_shard(inputs: FeatureInputs, shard: int, feature_N: Int64, cell_N: Int64) -> list[Prompt]:
    """One prompt for each pair of a feature and a cell of this shard of the cache, in the order given."""
    tokens = inputs.cache.read(inputs.hook, inputs.cache.members[shard].key)
    kept = np.flatnonzero(inputs.gene_tokens[tokens.gene] & np.isin(tokens.cell, cell_N))
    cell_T, gene_T = tokens.cell[kept].astype(np.int64), tokens.gene[kept].astype(np.int64)
    expression_T = Expression.by_gene_id(inputs.store, inputs.genes["gene_id"].tolist())(cell_T, gene_T)
    order = np.lexsort((tokens.pos[kept], -expression_T, cell_T))
    kept, cell_T, gene_T = kept[order], cell_T[order], gene_T[order]
    which = inputs.sae_path, inputs.sae_fingerprint
    codes = sparse_codes(
        autoencoder(*which),
        tokens.acts[torch.from_numpy(kept)],
        inputs.n_features,
        gene_T=gene_T,
        gene_means_GD=gene_means(*which),
    ).tocsc()
    codes.sort_indices()
    starts, stops = (np.searchsorted(cell_T, cell_N, side=side) for side in ("left", "right"))
    return [
        _prompt(codes[:, feature], gene_T, int(feature), int(cell), int(start), int(stop))
        for feature, cell, start, stop in zip(feature_N, cell_N, starts, stops, strict=True)
    ]


def _prompt(column: object, gene_T: Int64, feature: int, cell: int, start: int, stop: int) -> Prompt:
    """The window of the cell's tokens `[start, stop)` with the strongest one in its middle, if it can be."""
    value_T = np.zeros(stop - start, np.float32)
    rows, values = column.indices, column.data  # type: ignore[attr-defined]
    first, last = np.searchsorted(rows, [start, stop])
    value_T[rows[first:last] - start] = values[first:last]
    strongest = int(value_T.argmax()) if len(value_T) else 0
    begin = max(0, min(strongest - TOKENS_IN_PROMPT // 2, len(value_T) - TOKENS_IN_PROMPT))
    window = slice(begin, begin + TOKENS_IN_PROMPT)
    return Prompt(feature, cell, gene_T[start:stop][window], value_T[window], strongest - begin)
