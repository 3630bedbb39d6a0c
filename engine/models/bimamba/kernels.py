"""The CUDA kernels of mamba-ssm and causal-conv1d, where they are installed and the tensors are on a GPU.

Both are optional (`pip install syncytium[gpu]`): without them, and on a CPU, the scans of this package are
used, which compute the same. Not yet measured on a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

Kernel = Callable[..., Any]


def ssd_kernel(x: Tensor) -> Kernel | None:
    """mamba-ssm's `mamba_chunk_scan_combined` for tensors like `x`; None where it cannot be used."""
    return _kernel(x, "mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")


def selective_scan_kernel(x: Tensor) -> Kernel | None:
    """mamba-ssm's `selective_scan_fn`, whose CUDA part must have been built (MAMBA_KEEP_CUDA_BUILD=TRUE)."""
    return _kernel(x, "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")


def conv_kernel(x: Tensor) -> Kernel | None:
    """causal-conv1d's `causal_conv1d_fn`."""
    return _kernel(x, "causal_conv1d", "causal_conv1d_fn")


def _kernel(x: Tensor, module: str, name: str) -> Kernel | None:
    return _imported(module, name) if x.is_cuda else None


@cache
def _imported(module: str, name: str) -> Kernel | None:
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        return None
    try:
        kernel: Kernel = getattr(importlib.import_module(module), name)
    except ImportError:  # installed without what its kernels need (Triton, a CUDA build)
        return None
    return kernel
