"""Sizes of a model that does not exist yet: its parameters, and what a training pass holds in memory.

Every term is what autograd was seen to hold (tests count it again).
Legend: B conditions of a pass, L positions (genes and the condition's token), D width, E inner channels,
X convolved channels, Z outputs of in_proj, H heads, G groups, N state.
"""

from __future__ import annotations

import torch

from engine.models.bimamba.config import PerturbationConfig
from engine.models.bimamba.model import PerturbationModel
from engine.models.bimamba.scan import CHUNK, SEGMENT
from engine.models.bimamba.selective_scan import BLOCK, BLOCKS

FULL, HALF = 4, 2  # bytes of float32 and bfloat16
IN_WORK = "scan in work"
"""The term that members of an ensemble, whose passes back come one after the other, do not multiply."""


def parameter_count(config: PerturbationConfig) -> int:
    """Parameters of a model, without making their numbers."""
    with torch.device("meta"):
        model = PerturbationModel(config)
    return sum(parameter.numel() for parameter in model.parameters())


def activation_terms(
    config: PerturbationConfig,
    conditions: int,
    *,
    checkpointing: bool,
    bf16: bool = False,
    device: str = "cpu",
) -> dict[str, int]:
    """Bytes by term that a forward and backward pass of B conditions holds beside weights and gradients.

    checkpointing: of each layer only its input is kept, and one layer at a time is computed again. bf16:
    matrix products under torch.autocast. With the scans of this package; mamba-ssm's kernels keep less.
    """
    tokens = conditions * (config.n_genes + 1)
    kept = tokens * (_kept_mamba2 if config.block == "mamba2" else _kept_mamba1)(config, bf16, device)
    stream = FULL * tokens * config.d_model
    tables = FULL * config.n_known * (config.feature_dim + 3 * config.d_model)
    return {
        "gene tokens": tables + FULL * tokens * 3 + stream,
        "residual stream": config.n_layers * stream if checkpointing else 0,
        "activations of layers": (1 if checkpointing else config.n_layers) * kept,
        IN_WORK: max(2 * stream, _in_work(config, conditions, device)),
        "head": 2 * stream,
    }


def _kept_mamba2(config: PerturbationConfig, bf16: bool, device: str) -> int:
    """Bytes that a layer keeps of a token: both directions, the norms and the output map."""
    d, e, heads = config.d_model, config.d_inner, config.d_inner // config.headdim
    states = 2 * config.ngroups * config.d_state
    x = e + states
    z = e + x + heads
    carried = e * config.d_state // (config.ngroups * CHUNK * SEGMENT[device])
    if bf16:
        direction = FULL * (7 * e + states + 2 * heads + carried) + HALF * (z + 2 * x)
        return 2 * direction + FULL * 2 * d + HALF * (2 * d + e)
    return FULL * (2 * (z + 3 * x + 4 * e + 2 * heads + carried) + 4 * d + e)


def _kept_mamba1(config: PerturbationConfig, bf16: bool, device: str) -> int:
    d, e, n = config.d_model, config.d_inner, config.d_state
    projected = -(-d // 16) + 2 * n
    carried = e * n // (BLOCK * BLOCKS)
    if bf16:
        direction = FULL * (7 * e + 2 * n + carried) + HALF * (5 * e + projected)
        return 2 * direction + FULL * 2 * d + HALF * (2 * d + e)
    return FULL * (2 * (10 * e + projected + 2 * n + carried) + 4 * d + e)


def _in_work(config: PerturbationConfig, conditions: int, device: str) -> int:
    """Bytes that the backward pass of a layer holds at its highest beside what was kept: in the scan, which
    computes one segment again with all that autograd needs of it.

    Counts of copies are those seen at the peak (tests/training/perturbation/test_memory.py). What the layer
    had kept of later steps (gate, norm, output) is gone by then, hence the share of tokens.
    """
    e, length = config.d_inner, config.n_genes + 1
    if config.block == "mamba1":
        segment = BLOCK * BLOCKS
        numbers = 4.6 * e * config.d_state * segment + 1.3 * e * length
        return int(FULL * conditions * numbers)
    chunks = min(SEGMENT[device], -(-length // CHUNK))
    positions = chunks * CHUNK
    decays = 4.5 * (e // config.headdim) * CHUNK * positions
    states = 3 * chunks * config.d_state * e
    return int(FULL * conditions * (decays + states + 9.5 * e * positions - 2 * e * length))
