"""Similarities of features, block by block, against the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from engine.interpret.comparison import CodeCorrelation, DecoderCosine, Similarity


def assembled(similarity: Similarity, block: int) -> np.ndarray:
    n_one, n_other = similarity.shape
    return np.block(
        [
            [
                similarity.block(slice(row, row + block), slice(column, column + block)).numpy()
                for column in range(0, n_other, block)
            ]
            for row in range(0, n_one, block)
        ]
    )


def codes(rng: np.random.Generator, n_tokens: int, n_features: int) -> sparse.csr_matrix:
    return sparse.random(n_tokens, n_features, 0.2, format="csr", dtype=np.float32, random_state=rng)


@pytest.mark.parametrize("block", [3, 100])
def test_cosine_of_directions_of_any_length(block: int) -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(7, 5, generator=generator) * torch.arange(1, 8)[:, None]
    other = torch.randn(10, 5, generator=generator)
    one[2] = 0
    expected = torch.nn.functional.cosine_similarity(one[:, None], other[None], dim=2).numpy()
    found = assembled(DecoderCosine(one, other.bfloat16().float()), block)
    assert np.allclose(found, expected, atol=2e-2)
    assert np.allclose(assembled(DecoderCosine(one, other), block), expected, atol=1e-6)
    assert not found[2].any()


@pytest.mark.parametrize("block", [3, 100])
def test_correlation_of_codes_is_that_of_the_dense_columns(block: int) -> None:
    rng = np.random.default_rng(0)
    one, other = codes(rng, 60, 7), codes(rng, 60, 9)
    expected = np.corrcoef(one.toarray().T, other.toarray().T)[:7, 7:]
    assert np.allclose(assembled(CodeCorrelation(one, other), block), expected, atol=1e-5)


def test_a_feature_that_does_not_vary_is_like_nothing() -> None:
    rng = np.random.default_rng(1)
    one, other = codes(rng, 60, 4).tolil(), codes(rng, 60, 4)
    one[:, 0], one[:, 1] = 0, 3.7
    found = assembled(CodeCorrelation(one.tocsr(), other), 4)
    assert not found[:2].any()
    assert np.isfinite(found).all()


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="width 5 and 6"):
        DecoderCosine(torch.ones(2, 5), torch.ones(2, 6))
    with pytest.raises(ValueError, match="not aligned"):
        CodeCorrelation(sparse.csr_matrix((3, 2)), sparse.csr_matrix((4, 2)))
