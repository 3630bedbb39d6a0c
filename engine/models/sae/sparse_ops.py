"""Decoding and gradients at the active (token, feature) pairs only: work is proportional to k, not to F.

Two primitives do everything: a weighted sum of table rows per bag, and the inner products of given pairs of
rows. On CUDA they are the Triton kernels of `kernels`, elsewhere PyTorch's embedding bag and its gradient.
Gradients are accumulated over pairs sorted by feature: each row is written once, without atomics, and the
result does not depend on timing.
Legend: N active pairs, R rows of the result (tokens, or tokens of each nested prefix), M bags, B tokens,
D width, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models.sae.kernels import fused_for

_SUM = 0  # mode number of embedding_bag's sum
# Features per active one below which dense products are faster than gathering rows. CUDA: arithmetic of
# specs/sae.md section 3 for an H200, not yet measured. CPU: measured at width 512, 0.5 us for all that is
# done with a pair against 50 ns for the five products of a (token, feature).
_DENSE_BELOW = {"cpu": 11.0, "cuda": 155.0}


def dense_wins(n_features: int, k: float, device: str) -> bool:
    """Whether k active of n_features are so many that dense products are faster than gathering."""
    return n_features < k * _DENSE_BELOW.get(device, _DENSE_BELOW["cuda"])


def bag_sum(weight_N: Tensor, source_N: Tensor, offsets_M1: Tensor, table: Tensor) -> Tensor:
    """[M, D]: for every bag the sum of weight * table[source] over its pairs offsets[m] .. offsets[m + 1]."""
    fused = fused_for(table)
    if fused is not None:
        summed_MD: Tensor = fused.bag_sum(weight_N, source_N, offsets_M1, table)
        return summed_MD
    return F.embedding_bag(
        source_N, table, offsets_M1, per_sample_weights=weight_N, mode="sum", include_last_offset=True
    )


def sampled_products(
    left_MD: Tensor, bag_N: Tensor, offsets_M1: Tensor, source_N: Tensor, table: Tensor
) -> Tensor:
    """[N]: left[bag] . table[source] of every pair; bag_N is ascending and offsets_M1 its bounds."""
    fused = fused_for(table)
    if fused is not None:
        products_N: Tensor = fused.sampled_products(left_MD, bag_N, source_N, table)
    else:
        # The gradient of an embedding bag with respect to its weights is this very product.
        products_N = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            left_MD, table, source_N, offsets_M1[:-1], bag_N, _SUM, -1
        )
    return products_N


@dataclass(frozen=True)
class ActivePairs:
    """Active features by row of the result. row_N is ascending; row r belongs to token r % n_tokens.

    n_rows is a multiple of n_tokens: several sets of features (nested prefixes, dead features) are decoded
    in one go as further blocks of rows.
    """

    row_N: Tensor
    feature_N: Tensor
    n_rows: int
    n_tokens: int
    n_features: int

    @cached_property
    def token_N(self) -> Tensor:  # noqa: N802 - shape suffix
        return self.row_N if self.n_rows == self.n_tokens else self.row_N % self.n_tokens

    @cached_property
    def row_offsets(self) -> Tensor:
        """[R + 1] bounds of the rows in the pairs."""
        return _bounds(self.row_N, self.n_rows)

    @cached_property
    def by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        """order_N sorts the pairs by feature; then the sorted features and their bounds [F + 1]."""
        sorted_N, order_N = torch.sort(self.feature_N, stable=True)
        return order_N, sorted_N, _bounds(sorted_N, self.n_features)


def _bounds(sorted_N: Tensor, n: int) -> Tensor:
    counts = torch.bincount(sorted_N, minlength=n)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


class _EncodeAt(torch.autograd.Function):
    """Pre-activations at the pairs, computed beforehand; their gradients reach the pairs' features alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BD: Tensor,
        before_D: Tensor | None,
        W_enc_FD: Tensor,
        b_enc_F: Tensor,
        h_N: Tensor,
        pairs: ActivePairs,
    ) -> Tensor:
        ctx.save_for_backward(x_BD if before_D is None else x_BD - before_D, W_enc_FD)
        ctx.pairs, ctx.subtracts = pairs, before_D is not None
        return h_N.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dh_N,) = gradients
        centred_BD, W_enc_FD = ctx.saved_tensors
        pairs: ActivePairs = ctx.pairs
        order_N, _, bounds_F1 = pairs.by_feature
        dh_sorted_N = dh_N.contiguous()[order_N]
        dW_FD = bag_sum(dh_sorted_N, pairs.token_N[order_N], bounds_F1, centred_BD)
        db_F = torch.segment_reduce(dh_sorted_N, "sum", offsets=bounds_F1, initial=0)
        # Sum over tokens of what reaches the input: one matrix-vector product instead of a gather per pair.
        dbefore_D = -(db_F @ W_enc_FD) if ctx.subtracts else None
        dx_BD = None
        if ctx.needs_input_grad[0]:
            dx_RD = bag_sum(dh_N.contiguous(), pairs.feature_N, pairs.row_offsets, W_enc_FD)
            dx_BD = dx_RD.view(-1, *centred_BD.shape).sum(0)
        return dx_BD, dbefore_D, dW_FD, db_F, None, None


class _DecodeAt(torch.autograd.Function):
    """Sums of decoder rows, [R, D]; neither a dense activation nor its gradient exists."""

    @staticmethod
    def forward(ctx: Any, value_N: Tensor, W_dec_FD: Tensor, pairs: ActivePairs) -> Tensor:
        ctx.save_for_backward(value_N, W_dec_FD)
        ctx.pairs = pairs
        return bag_sum(value_N, pairs.feature_N, pairs.row_offsets, W_dec_FD)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g_RD = gradients[0].contiguous()
        value_N, W_dec_FD = ctx.saved_tensors
        order_N, feature_N, bounds_F1 = ctx.pairs.by_feature
        row_N = ctx.pairs.row_N[order_N]
        dW_FD = bag_sum(value_N[order_N], row_N, bounds_F1, g_RD)
        # Sorted by feature, so that a decoder row stays in cache for all of its tokens.
        dvalue_N = torch.empty_like(value_N)
        dvalue_N[order_N] = sampled_products(W_dec_FD, feature_N, bounds_F1, row_N, g_RD)
        return dvalue_N, dW_FD, None


def encode_at(
    x_BD: Tensor,
    before_D: Tensor | None,
    W_enc_FD: Tensor,
    b_enc_F: Tensor,
    h_N: Tensor,
    pairs: ActivePairs,
) -> Tensor:
    """Makes h_N, which holds (x - before) @ W_enc_FD.T + b_enc at the pairs, differentiable."""
    found: Tensor = _EncodeAt.apply(  # type: ignore[no-untyped-call]
        x_BD, before_D, W_enc_FD, b_enc_F, h_N, pairs
    )
    return found


def decode_at(value_N: Tensor, W_dec_FD: Tensor, pairs: ActivePairs) -> Tensor:
    """[R, D]: for each row the sum of value * W_dec[feature] over its pairs."""
    found: Tensor = _DecodeAt.apply(  # type: ignore[no-untyped-call]
        value_N, W_dec_FD, pairs
    )
    return found
