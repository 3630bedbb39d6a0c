"""Which features fire on which tokens: sparse codes of a sparse autoencoder, as a CSR matrix on the host.

Shape legend: T tokens, P some of them, D width of the encoder, F features, K most features that fire on a
token, G token ids.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from engine.models.sae import SparseCodes
from engine.models.sae.gene_means import without_gene_means

TOKENS_AT_ONCE = 8192
"""Tokens encoded together; K differs between such parts, and of some architectures it may be large."""


class FeatureEncoder(Protocol):
    """The part of a sparse autoencoder the pass needs."""

    def encode_sparse(self, x_TD: torch.Tensor, /) -> SparseCodes: ...


def sparse_codes(
    encoder: FeatureEncoder,
    x_TD: torch.Tensor,
    n_features: int,
    *,
    gene_T: npt.NDArray[np.integer[Any]] | None = None,
    gene_means_GD: torch.Tensor | None = None,
) -> sparse.csr_matrix:
    """The activations above zero, float32 `[T, F]`; in a row features come in no order.

    gene_T, gene_means_GD: token ids and what lies beside an autoencoder of gene residuals
    (`engine.models.sae.gene_means`); without means the autoencoder takes `x_TD` as it is.
    Works on the device of `x_TD`. Raises ValueError for NaN or infinity.
    """
    if gene_means_GD is not None and gene_T is None:
        raise ValueError("an autoencoder of gene residuals has to be told the genes")
    counts, features, values = [np.zeros(1, np.int64)], [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    with torch.inference_mode():
        for start in range(0, len(x_TD), TOKENS_AT_ONCE):
            x_PD = x_TD[start : start + TOKENS_AT_ONCE].float()
            if gene_means_GD is not None and gene_T is not None:
                ids_P = torch.from_numpy(gene_T[start : start + TOKENS_AT_ONCE].astype(np.int64))
                x_PD = without_gene_means(x_PD, ids_P.to(x_PD.device), gene_means_GD)
            index_PK, value_PK = encoder.encode_sparse(x_PD)
            if not (torch.isfinite(x_PD).all() and torch.isfinite(value_PK).all()):
                raise ValueError(
                    "The activations hold NaN or infinity: the cache or the autoencoder is damaged."
                )
            fires_PK = value_PK > 0
            counts.append(fires_PK.sum(dim=1).cpu().numpy())
            features.append(index_PK[fires_PK].to(torch.int32).cpu().numpy())
            values.append(value_PK[fires_PK].float().cpu().numpy())
    indptr = np.cumsum(np.concatenate(counts))
    shape = (len(x_TD), n_features)
    return sparse.csr_matrix((np.concatenate(values), np.concatenate(features), indptr), shape=shape)
