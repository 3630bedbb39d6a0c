"""Mamba blocks against mamba-ssm's own modules (shared/golden/mamba) and Hugging Face's, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Mamba2Config, MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from engine.models import bimamba

Golden = tuple[torch.nn.Module, dict[str, Any], dict[str, Any], dict[str, torch.Tensor]]


@pytest.fixture(params=["mamba1_d32", "mamba2_d64"])
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    """The block with golden weights, its sizes, its arrays, its weights."""
    stem = shared / "golden" / "mamba" / request.param
    sizes = json.loads(stem.with_suffix(".json").read_text())
    names = ("d_model", "d_state", "d_conv", "expand", "headdim", "ngroups")
    kind = bimamba.Mamba2 if sizes["kind"] == "Mamba2" else bimamba.Mamba1
    block = kind(**{name: sizes[name] for name in names if name in sizes})
    weights = load_file(stem.with_suffix(".safetensors"))
    block.load_state_dict(weights)
    return block, sizes, dict(np.load(stem.with_suffix(".npz"))), weights


def assert_near(found: torch.Tensor | None, expected: np.ndarray, tolerance: float) -> None:
    """Largest difference relative to the largest number."""
    assert found is not None
    assert np.abs(found.detach().numpy() - expected).max() <= tolerance * np.abs(expected).max()


def test_output_and_all_gradients(golden: Golden) -> None:
    block, _, arrays, _ = golden
    x_BLD = torch.tensor(arrays["x"], requires_grad=True)
    y_BLD = block(x_BLD)
    assert_near(y_BLD, arrays["y"], 1e-6)
    (y_BLD * torch.tensor(arrays["w"])).sum().backward()
    assert_near(x_BLD.grad, arrays["grad_x"], 1e-5)
    for name, parameter in block.named_parameters():
        assert_near(parameter.grad, arrays[f"grad.{name}"], 2e-5)


@torch.no_grad()
def test_hugging_face_takes_our_weights(golden: Golden) -> None:
    block, sizes, arrays, weights = golden
    options = {
        "hidden_size": sizes["d_model"],
        "state_size": sizes["d_state"],
        "conv_kernel": sizes["d_conv"],
        "expand": sizes["expand"],
        "use_bias": False,
    }
    if sizes["kind"] == "Mamba":
        theirs = MambaMixer(MambaConfig(**options), layer_idx=0)
    else:
        heads = sizes["expand"] * sizes["d_model"] // sizes["headdim"]
        more = {"head_dim": sizes["headdim"], "num_heads": heads, "n_groups": 1, "chunk_size": 16}
        theirs = Mamba2Mixer(Mamba2Config(**options, **more), layer_idx=0)
    theirs.load_state_dict(block.state_dict())
    x_BLD = torch.tensor(arrays["x"])
    assert_near(theirs(x_BLD), block(x_BLD).numpy(), 2e-6)
    assert block.state_dict().keys() == weights.keys()
