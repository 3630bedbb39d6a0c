"""Which features fire on which tokens: sparse codes of a sparse autoencoder, as a CSR matrix.

Shape legend: T tokens, D width of the encoder, F features.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from scipy import sparse

DENSE_BYTES = 64 << 20
"""Size of the only array of the pass that is tokens x features."""


class FeatureEncoder(Protocol):
    """The part of a sparse autoencoder the pass needs."""

    def encode(self, x_TD: torch.Tensor, /) -> torch.Tensor: ...


def sparse_codes(encoder: FeatureEncoder, x_TD: torch.Tensor, n_features: int) -> sparse.csr_matrix:
    """The activations above zero, float32 `[T, F]` on the host, each row's features ascending.

    Works on the device of `x_TD`. Raises ValueError for NaN or infinity.
    """
    at_once = max(1, DENSE_BYTES // (4 * n_features))
    counts, features, values = [np.zeros(1, np.int64)], [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    with torch.inference_mode():
        for start in range(0, len(x_TD), at_once):
            a_TF = encoder.encode(x_TD[start : start + at_once].float())
            if not torch.isfinite(a_TF.sum()):
                raise ValueError(
                    "The activations hold NaN or infinity: the cache or the autoencoder is damaged."
                )
            row_N, feature_N = torch.nonzero(a_TF > 0, as_tuple=True)
            counts.append(torch.bincount(row_N, minlength=len(a_TF)).cpu().numpy())
            features.append(feature_N.to(torch.int32).cpu().numpy())
            values.append(a_TF[row_N, feature_N].float().cpu().numpy())
    indptr = np.cumsum(np.concatenate(counts))
    shape = (len(x_TD), n_features)
    return sparse.csr_matrix((np.concatenate(values), np.concatenate(features), indptr), shape=shape)
