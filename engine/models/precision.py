"""What models multiply in: named, or left to what this machine has instructions for."""

from __future__ import annotations

from typing import Literal

import torch

# "fp32": everything in float32. "bf16": linear weights and attention in bfloat16, while tables, norms and
# the residual stream stay float32, which is what CUDA autocast computes but without casting at every call.
Precision = Literal["fp32", "bf16"]
AskedPrecision = Literal["auto", "fp32", "bf16"]

# Of a CPU that multiplies bfloat16 faster than float32, as torch names what it is capable of.
_BFLOAT16 = ("avx512_bf16", "amx_bf16")


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in _BFLOAT16)


def precision_here(asked: AskedPrecision) -> Precision:
    """What was asked for; of "auto", "bf16" where this machine's GPU, or its CPU if it has none, multiplies
    faster in it. Runs on many machines settle it once, where they are begun, so that all compute alike.
    """
    if asked != "auto":
        return asked
    has_it = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else cpu_has_bfloat16()
    return "bf16" if has_it else "fp32"
