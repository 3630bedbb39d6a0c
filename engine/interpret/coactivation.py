"""Which features fire together: the strongest partners of each feature over a sample of whole tokens.

Shape legend: S sampled tokens, F all features, B features of a block, N co-active pairs of a block.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from engine.interpret.runs import TokenSample, rank_within, segments
from engine.interpret.state import FeatureState

LEAST_JOINT = 3
"""Sampled tokens two features must share to be called partners: one shared token makes any pair of rare
features look perfectly correlated."""
BLOCK_FEATURES = 256
"""Features whose partners are looked for together: at most 256 x F pairs are held."""

COLUMNS = ["feature", "rank", "partner", "correlation", "cosine", "pmi", "joint", "tokens", "partner_tokens"]


def partner_table(state: FeatureState, keep: int) -> pd.DataFrame:
    """The `keep` partners of each feature of the state's range with the highest Pearson correlation.

    `correlation` and `cosine` are of the activations over all sampled tokens, silence counted; `pmi` (bits)
    is log2 of how much more often both fire than chance would have it, in `joint` tokens of the sample;
    `tokens` and `partner_tokens` count those on which either fires. Ties go to the smaller partner.
    """
    features = state.features
    table = pd.DataFrame({name: np.empty(0) for name in COLUMNS})
    if not keep or not state.tokens.sample.token_S.size:
        return table
    a_SF, n_tokens = _matrix(state.tokens.sample, state.plan.n_features), state.tokens.n_sampled
    columns = _ColumnSums.of(a_SF)
    blocks = [
        _block(a_SF, columns, n_tokens, first, min(first + BLOCK_FEATURES, features.stop), keep)
        for first in range(features.first, features.stop, BLOCK_FEATURES)
    ]
    return pd.concat(blocks, ignore_index=True)


def _matrix(sample: TokenSample, n_features: int) -> sparse.csr_matrix:
    starts = segments(sample.token_S)
    indptr = np.append(starts, sample.token_S.size)
    shape = (starts.size, n_features)
    return sparse.csr_matrix((sample.value_S.astype(np.float64), sample.feature_S, indptr), shape=shape)


class _ColumnSums:
    """Of each feature over the sample: tokens it fires on, sum, and sum of squares."""

    def __init__(self, fired_F: np.ndarray, sum_F: np.ndarray, square_F: np.ndarray) -> None:
        self.fired_F, self.sum_F, self.square_F = fired_F, sum_F, square_F

    @classmethod
    def of(cls, a_SF: sparse.csr_matrix) -> _ColumnSums:
        n = a_SF.shape[1]
        return cls(
            np.bincount(a_SF.indices, minlength=n),
            np.bincount(a_SF.indices, weights=a_SF.data, minlength=n),
            np.bincount(a_SF.indices, weights=a_SF.data**2, minlength=n),
        )


def _block(
    a_SF: sparse.csr_matrix, columns: _ColumnSums, n_tokens: int, first: int, stop: int, keep: int
) -> pd.DataFrame:
    """Partners of the features `[first, stop)`. Sums run over tokens in their order, whatever the block."""
    a_BS = a_SF[:, first:stop].T.tocsr()
    # Both products have the same pattern: values are above zero, so nothing cancels.
    product_BF = (a_BS @ a_SF).tocsr()
    joint_BF = (_ones(a_BS) @ _ones(a_SF)).tocsr()
    product_BF.sort_indices()
    joint_BF.sort_indices()
    feature_N = first + np.repeat(np.arange(stop - first), np.diff(product_BF.indptr))
    partner_N, joint_N = product_BF.indices.astype(np.int64), joint_BF.data.astype(np.int64)
    kept = np.flatnonzero((joint_N >= LEAST_JOINT) & (feature_N != partner_N))
    feature_N, partner_N, joint_N = feature_N[kept], partner_N[kept], joint_N[kept]
    dot_N = product_BF.data[kept]

    sums = [(columns.sum_F[at], columns.square_F[at]) for at in (feature_N, partner_N)]
    (sum_N, square_N), (partner_sum_N, partner_square_N) = sums
    covariance_N = dot_N - sum_N * partner_sum_N / n_tokens
    spread_N = np.sqrt((square_N - sum_N**2 / n_tokens) * (partner_square_N - partner_sum_N**2 / n_tokens))
    correlation_N = np.divide(covariance_N, spread_N, out=np.zeros_like(dot_N), where=spread_N > 0)
    fired_N, partner_fired_N = columns.fired_F[feature_N], columns.fired_F[partner_N]

    order = np.lexsort((partner_N, -correlation_N, feature_N))
    rank = rank_within(feature_N[order])
    order, rank = order[rank < keep], rank[rank < keep]
    table = {
        "feature": feature_N,
        "partner": partner_N,
        "correlation": correlation_N,
        "cosine": dot_N / np.sqrt(square_N * partner_square_N),
        "pmi": np.log2(joint_N * n_tokens / (fired_N * partner_fired_N)),
        "joint": joint_N,
        "tokens": fired_N,
        "partner_tokens": partner_fired_N,
    }
    return pd.DataFrame({name: column[order] for name, column in table.items()} | {"rank": rank})[COLUMNS]


def _ones(a: sparse.csr_matrix) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones_like(a.data), a.indices, a.indptr), shape=a.shape)
