"""Triton kernels over active (token, feature) pairs: weighted row sums per bag, and sampled products.

The weighted sum decodes (a bag is a token, the table is W_dec) and accumulates weight gradients (a bag is a
feature, the table holds tokens): one program owns a bag and a stretch of D, adds its pairs in their order in
fp32 and writes once, so there are no atomics and results repeat bit for bit. Features that fire on very many
tokens make long bags; how much that costs is not yet measured.
Legend: N active pairs, M bags, R rows of a table, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]
from torch import Tensor

# Elements of D held by one program; a multiple of a warp's 32 lanes times a 16-byte load.
WIDEST_STRETCH = 512


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _bag_sum_kernel(  # type: ignore[no-untyped-def]
    weight, source, offsets, table, out, width, STRETCH: tl.constexpr
):
    bag = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * STRETCH + tl.arange(0, STRETCH)
    inside = column < width
    total = tl.zeros([STRETCH], dtype=tl.float32)
    for pair in range(tl.load(offsets + bag), tl.load(offsets + bag + 1)):
        row = tl.load(source + pair).to(tl.int64)
        values = tl.load(table + row * width + column, mask=inside, other=0.0)
        total += tl.load(weight + pair).to(tl.float32) * values.to(tl.float32)
    tl.store(out + bag * width + column, total.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _products_kernel(  # type: ignore[no-untyped-def]
    left, bag, source, table, out, width, STRETCH: tl.constexpr
):
    pair = tl.program_id(0).to(tl.int64)
    left_row = tl.load(bag + pair).to(tl.int64)
    right_row = tl.load(source + pair).to(tl.int64)
    total = tl.zeros([STRETCH], dtype=tl.float32)
    for start in range(0, width, STRETCH):
        column = start + tl.arange(0, STRETCH)
        inside = column < width
        a = tl.load(left + left_row * width + column, mask=inside, other=0.0)
        b = tl.load(table + right_row * width + column, mask=inside, other=0.0)
        total += a.to(tl.float32) * b.to(tl.float32)
    tl.store(out + pair, tl.sum(total).to(out.dtype.element_ty))


def bag_sum(weight_N: Tensor, source_N: Tensor, offsets_M1: Tensor, table: Tensor) -> Tensor:
    """[M, D] as `sparse_ops.bag_sum`; accumulates in fp32 whatever the table's dtype."""
    table = table.contiguous()
    n_bags, width = len(offsets_M1) - 1, table.shape[1]
    out = torch.empty(n_bags, width, dtype=table.dtype, device=table.device)
    stretch = _stretch(width)
    if n_bags:
        grid = (n_bags, triton.cdiv(width, stretch))
        _launch(_bag_sum_kernel, grid, weight_N, source_N, offsets_M1, table, out, width, stretch)
    return out


def sampled_products(left_MD: Tensor, bag_N: Tensor, source_N: Tensor, table: Tensor) -> Tensor:
    """[N] as `sparse_ops.sampled_products`."""
    left_MD, table = left_MD.contiguous(), table.contiguous()
    out = torch.empty(len(source_N), dtype=table.dtype, device=table.device)
    width = table.shape[1]
    if len(source_N):
        grid = (len(source_N),)
        _launch(_products_kernel, grid, left_MD, bag_N, source_N, table, out, width, _stretch(width))
    return out


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Tensor | int) -> None:
    *inputs, stretch = arguments
    tensors = [part.contiguous() if isinstance(part, Tensor) else part for part in inputs]
    with torch.cuda.device(tensors[0].device):  # type: ignore[union-attr]
        kernel[grid](*tensors, STRETCH=stretch)


def _stretch(width: int) -> int:
    power: int = triton.next_power_of_2(width)
    return min(WIDEST_STRETCH, power)
