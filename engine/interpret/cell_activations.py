"""The largest activation of every feature in every cell, dense: for maps of some thousand cells.

Shape legend: T tokens, D width, C cells, F features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.interpret.codes import FeatureEncoder, sparse_codes
from engine.interpret.inputs import FeatureInputs
from engine.interpret.runs import Float32
from engine.models import sae
from engine.models.sae.gene_means import load_gene_means
from storage.checkpoints import local_copy


def peak_activations(inputs: FeatureInputs) -> Float32:
    """`[cells, features]` over the whole cache; 0 where a feature is silent or a cell has no gene token."""
    directory = local_copy(inputs.sae_path)
    autoencoder, means_GD = sae.load(directory), load_gene_means(directory)
    peak_CF = np.zeros((inputs.n_cells, inputs.n_features), np.float32)
    for record in inputs.cache.members:
        tokens = inputs.cache.read(inputs.hook, record.key)
        kept_T = inputs.gene_tokens[tokens.gene] & (tokens.cell < inputs.n_cells)
        add_peaks(peak_CF, autoencoder, tokens.acts, tokens.cell, kept_T, tokens.gene, means_GD)
    return peak_CF


def add_peaks(
    peak_CF: Float32,
    encoder: FeatureEncoder,
    x_TD: torch.Tensor,
    cell_T: npt.NDArray[np.integer[Any]],
    kept_T: npt.NDArray[np.bool_],
    gene_T: npt.NDArray[np.integer[Any]] | None = None,
    means_GD: torch.Tensor | None = None,
) -> None:
    """Raise `peak_CF` to the activations of the kept tokens, whose cells are rows of it.

    gene_T, means_GD: for an autoencoder of gene residuals, as in `sparse_codes`.
    """
    rows_T = np.flatnonzero(kept_T)
    codes = sparse_codes(
        encoder,
        x_TD[torch.from_numpy(rows_T)],
        peak_CF.shape[1],
        gene_T=None if gene_T is None else gene_T[rows_T],
        gene_means_GD=means_GD,
    )
    cell_N = np.repeat(cell_T[rows_T].astype(np.int64), np.diff(codes.indptr))
    np.maximum.at(peak_CF, (cell_N, codes.indices), codes.data)
