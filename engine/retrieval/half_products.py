"""Inner products of float16 rows with a float32 query: each number is widened as it is read.

Compiled for this machine's CPU when first asked for, in half a second. One loop, so that a row's product has
the same bits whether all rows were asked for or a few. It takes 1.4 times as long as reading the rows; torch
takes twice as long, and rounds the query to float16 (docs/benchmarks/index.md).

Shape legend: N rows, D width, K rows asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

Float32 = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]

# The compiler may add up in the order of the CPU's vectors; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}


def half_products(
    vectors_ND: npt.NDArray[np.float16], rows_K: Positions, query_D: Float32, out_K: Float32
) -> None:
    """Write the product of the query with each of some rows, in their order. Does not hold Python's lock.

    Raises IndexError for rows that are not there and shapes that do not fit, TypeError for arrays of other
    types or not contiguous.
    """
    if len(query_D) != vectors_ND.shape[1] or len(rows_K) != len(out_K):
        raise IndexError(f"{vectors_ND.shape} by {query_D.shape}: {rows_K.shape} into {out_K.shape}")
    _compiled()(vectors_ND.view(np.uint16), rows_K, query_D, out_K)


@cache
def _compiled() -> Callable[..., None]:
    bits_ND = types.Array(types.uint16, 2, "C", readonly=True)
    rows_K = types.Array(types.int64, 1, "C", readonly=True)
    query_D = types.Array(types.float32, 1, "C", readonly=True)
    out_K = types.Array(types.float32, 1, "C")
    compile_ = njit(types.void(bits_ND, rows_K, query_D, out_K), nogil=True, fastmath=_FAST)
    compiled: Callable[..., None] = compile_(_products)
    return compiled


def _products(bits_ND: Any, rows_K: Any, query_D: Any, out_K: Any) -> None:
    for place in range(len(rows_K)):
        row = rows_K[place]
        if row < 0 or row >= len(bits_ND):
            raise IndexError("a row that is not there")
        total = np.float32(0)
        for d in range(len(query_D)):
            total += _widened(bits_ND[row, d]) * query_D[d]
        out_K[place] = total


def _widen(typing: Any, bits: Any) -> Any:
    """The float16 of these bits, as float32: one instruction, for as many numbers as a vector holds."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


_widened = intrinsic(_widen)
