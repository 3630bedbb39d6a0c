"""CUDA kernels of the sparse step, imported only where CUDA and Triton are there.

Their numbers equal PyTorch's under Triton's interpreter (TRITON_INTERPRET=1, Triton 3.9); compiled, on a GPU,
they are not yet run or measured.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from torch import Tensor


def fused_for(table: Tensor) -> ModuleType | None:
    """The kernels for a table on a GPU; None where PyTorch's own operations do the work."""
    return _kernels() if table.is_cuda else None


@cache
def _kernels() -> ModuleType | None:
    if find_spec("triton") is None:
        return None
    return import_module("engine.models.sae.kernels.pairs")
