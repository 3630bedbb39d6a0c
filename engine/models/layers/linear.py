"""The matrix product of a linear layer, by the fastest exact kernel at hand."""

from __future__ import annotations

from functools import cache
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight' + bias, in the dtype that x and weight have.

    On a CPU and without gradients by the oneDNN kernel that torch.compile would choose: it adds the bias
    while a tile of the result is still in registers and is 1.2 times as fast in float32 as `F.linear`, which
    hands that dtype to another library (AMD EPYC, width 512; docs/benchmarks/encode_tahoe.md).
    """
    if _onednn_takes(x):
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))
    return F.linear(x, weight, bias)


def _onednn_takes(x: Tensor) -> bool:
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    return x.dtype in _onednn_dtypes() and x.numel() > 0


@cache
def _onednn_dtypes() -> frozenset[torch.dtype]:
    """Dtypes that this build of PyTorch and this processor can multiply with oneDNN."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return frozenset()
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return frozenset({torch.float32, torch.bfloat16} if has_bfloat16 else {torch.float32})
